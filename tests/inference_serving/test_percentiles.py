"""Percentiles: NumPy's, bit for bit, without what NumPy imports for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.percentiles import percentiles

values = st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=40)
ranks = st.lists(st.floats(0, 100), min_size=1, max_size=5)


@settings(max_examples=300)
@given(values, ranks)
def test_percentiles_are_numpys_bit_for_bit(samples, wanted):
    expected = np.percentile(np.array(samples, np.float64), wanted).tolist()
    assert percentiles(np.array(samples, np.float64), wanted) == expected


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, 1.0), (25, 1.5), (50, 2.0), (75, 6.0), (100, 10.0)], ids=lambda one: f"{one:g}"
)
def test_a_percentile_lies_on_the_line_between_its_neighbours(rank, expected):
    assert percentiles(np.array([10.0, 1.0, 2.0]), (rank,)) == [expected]


def test_all_percentiles_of_one_value_are_that_value():
    assert percentiles(np.array([7.0]), (0, 50, 99.9, 100)) == [7.0] * 4

"""Tokens a second over time, made from requests and compared."""

from __future__ import annotations

import numpy as np
import pytest
from validation_runs import served

from inference_serving.validation.errors import Value
from inference_serving.validation.series import LoadError, compare_series, series_of


def compare(real, simulated, step_s=1.0):
    return compare_series("generated", step_s, np.array(real, dtype=float), np.array(simulated, dtype=float))


def test_a_token_counts_in_the_interval_that_ends_with_it_or_holds_it():
    """Tokens at 0.5, 1.0, 2.5 s and at 3.0 s, where the prompt of 7 counts too."""
    requests = [served("0", 0, (4, 3), 500, [500, 1500]), served("1", 1000, (7, 1), 2000, [])]
    series = series_of(requests)
    assert series.generated.tolist() == [2, 0, 2]
    assert series.prompt.tolist() == [4, 0, 7]


def test_shorter_intervals_are_still_rates():
    series = series_of([served("0", 0, (4, 3), 500, [500, 1500])], 0.5)
    assert series.generated.tolist() == [2, 2, 0, 0, 2]


def test_tokens_of_a_chunk_share_its_time():
    series = series_of([served("0", 0, (4, 6), 500, [2000])])
    assert series.generated.tolist() == [3, 0, 3]


def test_without_token_times_there_is_no_series():
    assert series_of([served("0", 0, (4, 3), 500, latency_ms=700)]) is None
    assert series_of([]) is None
    assert series_of([served("0", 0, (4, 1), 500, latency_ms=500)]).generated.tolist() == [1]


def test_errors_are_relative_to_the_real_mean():
    """The same 40 tokens, but one interval longer: a mean of 10 over four intervals."""
    found = compare([10, 20, 10, 0, 0], [10, 10, 10, 10])
    assert found.real.tolist() == [10, 20, 10, 0]
    assert found.simulated.tolist() == [10, 10, 10, 10]
    assert found.tokens == Value(40, 40)
    assert found.busy == Value(40 / 3, 10)
    assert (found.mean_error, found.mean_absolute_error) == (0, 50)


def test_fewer_tokens_are_a_mean_error():
    found = compare([10, 10], [8, 6])
    assert (found.mean_error, found.mean_absolute_error) == (-30, 30)


def test_tokens_are_rates_times_the_step():
    assert compare([10, 10], [8, 6], step_s=0.5).tokens == Value(10, 7)


@pytest.mark.parametrize(
    ("real", "simulated", "shift"),
    [
        ([0, 0, 5, 9, 1], [5, 9, 1], 2),
        ([5, 9, 1], [0, 5, 9, 1], -1),
        ([5, 9, 1], [5, 9, 1], 0),
    ],
)
def test_the_best_shift_tells_how_far_the_clocks_are_apart(real, simulated, shift):
    found = compare(real, simulated)
    assert (found.best_shift, found.shifted_absolute_error) == (shift, 0)


def test_load_is_a_third_of_the_real_peak():
    found = compare([3, 6, 30, 30, 15], [6, 3, 20, 10, 30])
    assert found.by_load == (
        LoadError("low (to 10 tok/s)", 2, Value(4.5, 4.5)),
        LoadError("middle (to 20 tok/s)", 1, Value(15, 30)),
        LoadError("high (to 30 tok/s)", 2, Value(30, 15)),
    )

"""Parsed results as TSV: what is written is read again, and bad lines are named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_sim.input_error import InputError
from evaluation.rows import Row, read_rows, series_in, series_rows, value_in, write_rows


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_seven_digits(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("rows") / "rows.tsv"
    write_rows(file, [Row("A", "x_ms", value)])
    (row,) = read_rows(file)
    assert row.key == ("A", "x_ms", "")
    assert row.value == pytest.approx(value, rel=1e-6)


def test_a_series_comes_back_as_it_was(tmp_path):
    file = tmp_path / "rows.tsv"
    write_rows(file, [Row("A", "x", 7.0), *series_rows("A", "x", np.array([1.0, 1.5]), np.array([3.0, 4.0]))])
    rows = read_rows(file)
    ends_s, values = series_in(rows, "A", "x")
    assert (ends_s.tolist(), values.tolist()) == ([1.0, 1.5], [3.0, 4.0])
    assert value_in(rows, "A", "x") == 7.0
    assert value_in(rows, "B", "x") is None
    assert series_in(rows, "A", "y")[0].size == 0


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1"),
        ("scenario\tvalue\n", "line 1"),
        ("scenario\tmetric\ttime_s\tvalue\nA\tx\t\tmuch\n", "line 2"),
        ("scenario\tmetric\ttime_s\tvalue\nA\tx\t1\n", "line 2"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, where):
    file = tmp_path / "rows.tsv"
    file.write_text(text)
    with pytest.raises(InputError, match=where):
        read_rows(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "rows.tsv")

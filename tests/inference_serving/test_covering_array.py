"""Covering arrays: every allowed pair is in a row, no forbidden one is, and the rows are few."""

from __future__ import annotations

from itertools import combinations

from covering_array import covering_rows, missing_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

sizes = st.lists(st.integers(1, 4), min_size=2, max_size=6)


def axes_of(numbers: list[int]) -> dict[str, list[str]]:
    return {f"axis {n}": [str(value) for value in range(count)] for n, count in enumerate(numbers)}


@settings(max_examples=60)
@given(sizes)
def test_every_pair_is_in_a_row(numbers):
    axes = axes_of(numbers)
    rows = covering_rows(axes, lambda one, other: True)
    assert not missing_pairs(rows, axes, lambda one, other: True)
    assert all(list(row) == list(axes) for row in rows)


@settings(max_examples=60)
@given(sizes, st.data())
def test_no_row_has_a_forbidden_pair(numbers, data):
    axes = axes_of(numbers)
    choices = [(axis, value) for axis, values in axes.items() for value in values]
    pairs = [set(pair) for pair in combinations(choices, 2) if pair[0][0] != pair[1][0]]
    forbidden = data.draw(st.lists(st.sampled_from(pairs), max_size=6))

    def allowed(one, other):
        return {one, other} not in forbidden

    rows = covering_rows(axes, allowed)
    for row in rows:
        assert all(allowed(*pair) for pair in combinations(row.items(), 2))
    for pair in missing_pairs(rows, axes, allowed):  # only what no row can have
        assert not any(dict(pair).items() <= row.items() for row in every_row(axes, allowed))


def every_row(axes, allowed):
    rows = [{}]
    for axis, values in axes.items():
        rows = [
            {**row, axis: value}
            for row in rows
            for value in values
            if all(allowed(taken, (axis, value)) for taken in row.items())
        ]
    return rows


def test_ten_axes_of_three_values_need_hardly_more_rows_than_their_pairs_allow():
    """9 rows is the least for two axes of three values; all combinations would be 59,049."""
    axes = {f"axis {n}": ["a", "b", "c"] for n in range(10)}
    assert len(covering_rows(axes, lambda one, other: True)) <= 27


def test_the_rows_are_the_same_every_time():
    axes = axes_of([4, 3, 2, 4, 3])
    assert covering_rows(axes, lambda *_: True) == covering_rows(axes, lambda *_: True)

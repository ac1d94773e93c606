"""Few rows that hold every pair of values of every two axes (a covering array of strength two)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

Choice = tuple[str, str]
"""An axis, and one of its values."""
Row = dict[str, str]
Allowed = Callable[[Choice, Choice], bool]


def covering_rows(axes: Mapping[str, Sequence[str]], allowed: Allowed) -> list[Row]:
    """Rows with a value of each axis, none with a pair that is not ``allowed``, that together have all others.

    Greedy, as in AETG (Cohen et al., 1997), and without chance: each row begins with the first pair that no row
    has yet and takes, axis by axis, the value that brings most of those. A pair that fits into no row at all,
    because of what its values forbid on a third axis, is left out: :func:`missing_pairs` names it.
    """
    left = dict.fromkeys(_pairs(axes, allowed))
    rows: list[Row] = []
    while left:
        first = next(iter(left))
        row = completed_row(dict(first), axes, allowed, left)
        if row is None:
            del left[first]
            continue
        rows.append(row)
        for pair in combinations(row.items(), 2):
            left.pop(pair, None)
    return rows


def missing_pairs(
    rows: Sequence[Row], axes: Mapping[str, Sequence[str]], allowed: Allowed
) -> list[tuple[Choice, Choice]]:
    """Allowed pairs that are in no row."""
    held = {pair for row in rows for pair in combinations(row.items(), 2)}
    return [pair for pair in _pairs(axes, allowed) if pair not in held]


def _pairs(axes: Mapping[str, Sequence[str]], allowed: Allowed) -> Iterator[tuple[Choice, Choice]]:
    """Allowed pairs, their axes in the order of ``axes``."""
    for one, other in combinations(axes, 2):
        for pair in (((one, a), (other, b)) for a in axes[one] for b in axes[other]):
            if allowed(*pair):
                yield pair


def completed_row(
    row: Row,
    axes: Mapping[str, Sequence[str]],
    allowed: Allowed,
    left: Mapping[tuple[Choice, Choice], None] = MappingProxyType({}),
) -> Row | None:
    """The row with a value for each axis, by depth-first search with forward checking; None if there is none.

    Values that are in most pairs of ``left`` are tried first, then in the order of ``axes``. The values that ``row``
    has already need not go together, only with all others.
    """
    place = {axis: number for number, axis in enumerate(axes)}

    def gain(choice: Choice, row: Row) -> int:
        return sum(
            ((taken, choice) if place[taken[0]] < place[choice[0]] else (choice, taken)) in left
            for taken in row.items()
        )

    def fill(row: Row, values: Mapping[str, Sequence[str]]) -> Row | None:
        if not values:
            return {axis: row[axis] for axis in axes}
        # an axis with one value left goes first, so that a dead end is met early
        axis = min(values, key=lambda one: len(values[one]) > 1)
        for value in sorted(values[axis], key=lambda value: -gain((axis, value), row)):
            rest = _without(values, axis, (axis, value), allowed)
            if all(rest.values()) and (found := fill({**row, axis: value}, rest)) is not None:
                return found
        return None

    values: Mapping[str, Sequence[str]] = dict(axes)
    for choice in row.items():
        values = _without(values, choice[0], choice, allowed)
    return fill(row, values) if all(values.values()) else None


def _without(
    values: Mapping[str, Sequence[str]], axis: str, choice: Choice, allowed: Allowed
) -> dict[str, list[str]]:
    """The values of the other axes that go together with a choice."""
    return {
        other: [value for value in some if allowed(choice, (other, value))]
        for other, some in values.items()
        if other != axis
    }

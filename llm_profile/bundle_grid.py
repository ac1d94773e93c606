"""Measured points on the axes of a grid, holes filled, and straight lines between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from llm_profile.table_csv import Floats, Ints

Cell = tuple[int, float]
"""Where a coordinate lies on an axis: the knot below it, and how far on to the next (above 1: beyond)."""


class Axis:
    """Sorted knots of one axis.

    >>> axis = Axis([10, 20, 40])
    >>> axis.cell(5), axis.cell(20), axis.cell(25), axis.cell(60)
    ((0, 0.0), (1, 0.0), (1, 0.25), (1, 2.0))
    """

    __slots__ = ("knots", "last")

    def __init__(self, knots: Sequence[int]) -> None:
        self.knots = list(knots)
        self.last = self.knots[-1]

    def cell(self, x: float) -> Cell:
        """The cell of ``x``: before the first knot it is that knot, beyond the last the last cell goes on."""
        knots = self.knots
        if x <= knots[0] or len(knots) == 1:
            return 0, 0.0
        i = min(bisect_right(knots, x), len(knots) - 1) - 1
        return i, (x - knots[i]) / (knots[i + 1] - knots[i])


def along(block: Floats, cell: Cell) -> Floats:
    """Values of a block at ``cell`` of its first axis."""
    i, part = cell
    if part == 0.0:
        line: Floats = block[i]
        return line
    low: Floats = block[i]
    between: Floats = low + (block[i + 1] - low) * part
    return between


def on_line(y: Floats, cell: Cell) -> float:
    """Value of a line of knots at ``cell``."""
    i, part = cell
    low = y.item(i)
    return low if part == 0.0 else low + (y.item(i + 1) - low) * part


def axis_of(values: Ints) -> Axis:
    """The axis through all of ``values``."""
    return Axis(np.unique(values).tolist())


def scatter(keys: Ints, values: Floats, axes: Sequence[Axis]) -> Floats:
    """Values by position on ``axes``; NaN where there is none."""
    grid = np.full([len(axis.knots) for axis in axes], np.nan)
    at = tuple(np.searchsorted(axis.knots, keys[:, i]) for i, axis in enumerate(axes))
    grid[at] = values
    return grid


def fill(grid: Floats, axes: Sequence[Axis], order: Sequence[int]) -> Floats:
    """Fill holes between measured points along each axis in ``order``, then those beyond from the nearest.

    The first axis of ``order`` decides; later ones see only the holes that are left.
    """
    grid = grid.copy()
    for edges in (False, True):
        for axis in order:
            if np.isnan(grid).any():
                _fill_along(grid, axes[axis].knots, axis, edges=edges)
    return grid


def _fill_along(grid: Floats, knots: Sequence[int], axis: int, *, edges: bool) -> None:
    lines = np.moveaxis(grid, axis, -1)
    at = np.asarray(knots, dtype=np.float64)
    holes = np.isnan(lines)
    for index in np.argwhere(holes.any(axis=-1) & ~holes.all(axis=-1)):
        line = lines[tuple(index)]
        known = ~np.isnan(line)
        beyond = None if edges else np.nan
        line[~known] = np.interp(at[~known], at[known], line[known], left=beyond, right=beyond)

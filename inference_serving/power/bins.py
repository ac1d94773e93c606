"""Energy by log interval and part of a node."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from inference_serving.power.iteration_work import FloatArray

Draw = tuple[int, float]
"""A part, by its position, and the W that it draws (or the J that it uses)."""


class EnergyBins:
    """Joules by interval of simulated time and by part, growing as time goes.

    A flat array and plain numbers: an iteration touches three or four entries, too few for vectors to pay.
    """

    def __init__(self, interval_ns: int, parts: int) -> None:
        self._interval_ns = interval_ns
        self._parts = parts
        self._energy_j = array("d")

    def add_power(self, draws: Iterable[Draw], start_ns: int, end_ns: int) -> None:
        """Add what some parts use from ``start_ns`` to ``end_ns``."""
        interval_ns = self._interval_ns
        index = start_ns // interval_ns
        while start_ns < end_ns:
            stop_ns = min(end_ns, (index + 1) * interval_ns)
            self._add(index, draws, (stop_ns - start_ns) * 1e-9)
            start_ns = stop_ns
            index += 1

    def add_energy(self, uses: Iterable[Draw], at_ns: int) -> None:
        """Add J that some parts use at once, at the end of what is before ``at_ns``."""
        self._add(max(at_ns - 1, 0) // self._interval_ns, uses, 1.0)

    def first(self, intervals: int) -> FloatArray:
        """Energy of the first ``intervals`` intervals, shape ``[intervals, parts]``."""
        entries = intervals * self._parts
        self._reach(entries)
        return np.array(self._energy_j[:entries]).reshape(intervals, self._parts)

    def of(self, index: int) -> float:
        """Energy of all parts in one interval."""
        first = index * self._parts
        return sum(self._energy_j[first : first + self._parts])

    def _add(self, index: int, draws: Iterable[Draw], factor: float) -> None:
        first, energy_j = index * self._parts, self._energy_j
        if first >= len(energy_j):
            self._reach(first + self._parts)
        for part, amount in draws:
            energy_j[first + part] += amount * factor

    def _reach(self, entries: int) -> None:
        missing = entries - len(self._energy_j)
        if missing > 0:
            self._energy_j.frombytes(bytes(8 * missing))

"""Energy of the iterations of one instance that are under way, several at a time where it has pipeline stages."""

from __future__ import annotations

from collections import deque


class StagedEnergy:
    """Adds up each iteration's energy over its stages, which all take the iterations in the same order.

    >>> energy = StagedEnergy(stages=2)
    >>> first, second = energy.begin(), energy.begin()
    >>> energy.add(0, 1.0), energy.add(0, 2.0), energy.add(1, 10.0)
    (None, None, None)
    >>> energy.finish() == (first, 11.0)
    True
    """

    def __init__(self, stages: int) -> None:
        self._ended = [0] * stages
        self._begun = 0
        self._finished = 0
        self._sums_j: deque[float] = deque()

    def begin(self) -> int:
        """An iteration begins; returns a number that no other has while it is under way."""
        lane = self._begun % len(self._ended)
        self._begun += 1
        self._sums_j.append(0.0)
        return lane

    def add(self, stage: int, energy_j: float) -> None:
        """A stage has used so many J for its next iteration."""
        self._sums_j[self._ended[stage] - self._finished] += energy_j
        self._ended[stage] += 1

    def finish(self) -> tuple[int, float]:
        """The oldest iteration has ended: its number and its J."""
        lane = self._finished % len(self._ended)
        self._finished += 1
        return lane, self._sums_j.popleft()

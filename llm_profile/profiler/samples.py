"""Repeated times of one layer, and the median and spread that tables hold."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """Times of repeated shots in ns (population standard deviation).

    >>> Stats.of([3.0, 1.0, 8.0]).median
    3.0
    """

    min: float
    max: float
    mean: float
    median: float
    std: float

    @classmethod
    def of(cls, ns: Sequence[float]) -> Stats:
        """Statistics of at least one time."""
        return cls(min(ns), max(ns), statistics.fmean(ns), statistics.median(ns), statistics.pstdev(ns))


Times = Mapping[str, Stats]
"""Times of one point by layer name; attention is ``attn``, an uneven batch has ``mean``, ``max``, ``skew``."""

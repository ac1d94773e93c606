"""Time of one layer by token count, from measured points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_profile.protocol import Source


class LayerCurve:
    """Time of one layer by token count: measured points, straight lines between and beyond them.

    >>> curve = LayerCurve(np.array([1, 3]), np.array([10.0, 30.0]))
    >>> curve.ns(np.array([1, 2, 5])).tolist(), str(curve.source(2)), str(curve.source(5))
    ([10, 20, 50], 'interpolated', 'extrapolated')
    """

    def __init__(self, tokens: NDArray[np.int64], ns: NDArray[np.float64]) -> None:
        self._measured = tokens
        self._last = int(tokens[-1])
        self._ns = np.rint(np.interp(np.arange(self._last + 1), tokens, ns)).astype(np.int64)
        self._slope_ns = tail_slope(tokens.astype(np.float64), ns)

    def ns(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time for each of ``tokens``."""
        inside = self._ns[np.minimum(tokens, self._last)]
        beyond = np.maximum(tokens - self._last, 0)
        return inside if not beyond.any() else inside + np.rint(beyond * self._slope_ns).astype(np.int64)

    def source(self, tokens: int) -> Source:
        """How :meth:`ns` gets the number of one token count."""
        if not self._measured[0] <= tokens <= self._last:
            return Source.EXTRAPOLATED
        return Source.MEASURED if np.isin(tokens, self._measured) else Source.INTERPOLATED


def tail_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Least-squares slope of the last quarter of a sorted curve (at least two points), never negative.

    More than the last two points, because neighbours of a measured table differ by noise.
    """
    if x.size < 2:
        return 0.0
    keep = x >= min(x[-2], x[-1] - 0.25 * (x[-1] - x[0]))
    return max(0.0, float(np.polyfit(x[keep], y[keep], 1)[0]))

"""Percentiles, as NumPy defines them by default: on the straight line between the two nearest samples.

``np.percentile`` itself imports ``numpy.ma``, which takes longer than all else that a short run has to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def percentiles(values: NDArray[np.float64], ranks: Sequence[float]) -> list[float]:
    """The percentiles of at least one value, bit for bit those of ``np.percentile``; ``values`` are reordered.

    >>> percentiles(np.array([4.0, 1.0, 2.0]), (0, 50, 75))
    [1.0, 2.0, 3.0]
    """
    last = values.size - 1
    places = [rank / 100 * last for rank in ranks]
    values.partition(sorted({min(int(place) + step, last) for place in places for step in (0, 1)}))
    return [_between(values, place) for place in places]


def _between(values: NDArray[np.float64], place: float) -> float:
    """The value at a place that need not be whole; from the nearer end, so that rounding cannot leave the two."""
    index = int(place)
    low, high = float(values[index]), float(values[min(index + 1, values.size - 1)])
    share = place - index
    step = high - low
    return low + step * share if share < 0.5 else high - step * (1 - share)

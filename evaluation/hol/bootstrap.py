"""Bootstrap intervals over seeds and requests.

A replicate draws seeds with replacement and, in each, circular blocks of requests in order of arrival (Politis and
Romano 1992): neighbours wait in the same queue, so requests drawn one by one would make intervals too narrow.
Runs of equal sizes get equal draws, so replicates of two policies on the same arrivals are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], float]
REPLICATES = 300
_SEED = 20_260
_LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of all runs together, its 95 % interval, and the replicates that it comes from."""

    value: float
    replicates: Floats

    @property
    def interval(self) -> tuple[float, float]:
        """Percentile interval, lower and upper end."""
        low, high = np.percentile(self.replicates, _LEVEL).tolist()
        return low, high

    def over(self, other: Estimate) -> Estimate:
        """The ratio to an estimate on the same arrivals."""
        return Estimate(self.value / other.value, self.replicates / other.replicates)


def estimate(runs: Sequence[Floats], statistic: Statistic, replicates: int = REPLICATES) -> Estimate:
    """Estimate a statistic of the pooled values of runs, one array a seed, values in order of arrival."""
    rng = np.random.default_rng(_SEED)
    drawn = np.empty(replicates)
    for number in range(replicates):
        chosen = rng.integers(0, len(runs), len(runs))
        drawn[number] = statistic(np.concatenate([_resample(runs[index], rng) for index in chosen]))
    return Estimate(statistic(np.concatenate(list(runs))), drawn)


def _resample(values: Floats, rng: np.random.Generator) -> Floats:
    size = len(values)
    length = max(round(size**0.5), 1)
    starts = rng.integers(0, size, -(-size // length))
    places = (starts[:, None] + np.arange(length)).ravel()[:size] % size
    result: Floats = values[places]
    return result


def percentile(share: float) -> Statistic:
    """A percentile as a statistic."""
    return lambda values: float(np.percentile(values, share))


def mean(values: Floats) -> float:
    """The mean as a statistic."""
    return float(values.mean())

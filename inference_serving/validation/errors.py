"""Statistics of two runs side by side, and the errors between them in %."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from inference_serving.validation.matching import Pair
from inference_serving.validation.run import NS_PER_S, FloatArray, ServedRequest, span_ns

STATISTICS = ("mean", "median", "p90", "p95", "p99")
METRICS = ("TTFT", "TPOT", "ITL", "latency")
_LOAD_GROUPS = 4


def error_percent(real: float, simulated: float) -> float | None:
    """How far the simulated value is from the real one, in % of the real one; None if that is 0."""
    return None if real == 0 else 100 * (simulated - real) / real


@dataclass(frozen=True)
class Value:
    """One number, real and simulated."""

    real: float
    simulated: float

    @property
    def error(self) -> float | None:
        """Error in %."""
        return error_percent(self.real, self.simulated)


@dataclass(frozen=True)
class MetricComparison:
    """One latency, in ms: its statistics, and the errors of single requests.

    ``paired`` is the median over requests of the absolute error in %; None for ITL, whose samples have no
    counterparts.
    """

    name: str
    samples: tuple[int, int]
    statistics: dict[str, Value]
    paired: float | None


@dataclass(frozen=True)
class Group:
    """Some of the requests: what they have in common, how many there are, and their latencies."""

    name: str
    requests: int
    metrics: tuple[MetricComparison, ...]


def samples_ms(requests: Sequence[ServedRequest], metric: str) -> FloatArray:
    """Samples of a latency in ms: one a request, or one a gap (ITL); TPOT without one-token requests."""
    if metric == "ITL":
        gaps = [one.itl_ns for one in requests if one.itl_ns is not None]
        return np.concatenate(gaps) / 1e6 if gaps else np.empty(0)
    if metric == "TPOT":
        return np.array([one.tpot_ns for one in requests if one.tpot_ns is not None], dtype=np.float64) / 1e6
    of: dict[str, Callable[[ServedRequest], int]] = {
        "TTFT": lambda one: one.ttft_ns,
        "latency": lambda one: one.latency_ns,
    }
    return np.array([of[metric](one) for one in requests], dtype=np.float64) / 1e6


def statistics(values: FloatArray) -> dict[str, float]:
    """Mean, median and percentiles (linear between samples) of at least one value."""
    names = ("median", "p90", "p95", "p99")
    percentiles = np.percentile(values, (50, 90, 95, 99)).tolist()
    return {"mean": float(values.mean()), **dict(zip(names, percentiles, strict=True))}


def compare_group(name: str, pairs: Sequence[Pair]) -> Group:
    """Compare every latency that both sides have samples of."""
    real, simulated = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    compared = (_compare(metric, real, simulated) for metric in METRICS)
    return Group(name, len(pairs), tuple(one for one in compared if one is not None))


def _compare(
    metric: str, real: Sequence[ServedRequest], simulated: Sequence[ServedRequest]
) -> MetricComparison | None:
    theirs, ours = samples_ms(real, metric), samples_ms(simulated, metric)
    if not theirs.size or not ours.size:
        return None
    left, right = statistics(theirs), statistics(ours)
    paired = None
    if metric != "ITL" and (known := theirs > 0).any():
        paired = float(np.median(np.abs(ours[known] / theirs[known] - 1)) * 100)
    return MetricComparison(
        metric,
        (theirs.size, ours.size),
        {name: Value(left[name], right[name]) for name in STATISTICS},
        paired,
    )


def by_class(pairs: Sequence[Pair], limits: Sequence[int]) -> tuple[Group, ...]:
    """Groups by prompt length: up to the first limit, up to the second, ..., beyond the last."""
    groups = []
    edges = [0, *limits, None]
    for low, high in pairwise(edges):
        inside = [pair for pair in pairs if _between(pair[0].prompt_tokens, low or 0, high)]
        name = f"prompts of {(low or 0) + 1}-{high} tokens" if high else f"prompts over {low} tokens"
        groups.append(compare_group(name, inside))
    return tuple(groups)


def _between(value: int, low: int, high: int | None) -> bool:
    return value > low and (high is None or value <= high)


def by_load(pairs: Sequence[Pair]) -> tuple[Group, ...]:
    """Four equal groups by how many requests were in flight in the real run when one arrived."""
    real = [pair[0] for pair in pairs]
    arrivals = np.sort([one.arrival_ns for one in real])
    ends = np.sort([one.end_ns for one in real])
    at = np.array([one.arrival_ns for one in real])
    load = np.searchsorted(arrivals, at, side="left") - np.searchsorted(ends, at, side="right")
    groups = []
    for part in np.array_split(np.argsort(load, kind="stable"), _LOAD_GROUPS):
        if part.size:
            name = f"{load[part[0]]}-{load[part[-1]]} requests in flight at arrival"
            groups.append(compare_group(name, [pairs[index] for index in part]))
    return tuple(groups)


def rates(pairs: Sequence[Pair]) -> dict[str, Value]:
    """Requests and tokens a second, each from its own first arrival to its own last token."""
    real, simulated = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    spans = span_ns(real) / NS_PER_S, span_ns(simulated) / NS_PER_S
    generated = sum(one.output_tokens for one in real)
    prompt = sum(one.prompt_tokens for one in real)
    counts = {
        "requests/s": len(pairs),
        "generated tokens/s": generated,
        "prompt and generated tokens/s": prompt + generated,
    }
    values = {name: Value(*(count / span for span in spans)) for name, count in counts.items() if all(spans)}
    return {"duration (s)": Value(*spans), **values}

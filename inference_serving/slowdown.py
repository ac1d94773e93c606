"""Slowdown: how much longer a prompt took than it would have taken alone, and how evenly that is shared out.

The slowdown of a request is (wait + compute) / compute = TTFT / isolated prefill time. The isolated time is
predicted with one chunk plan for all policies (:data:`REFERENCE_CHUNK_TOKENS`), so that no policy can look
better by making prompts slower; observed time in a batch never enters it, for co-batching would hide waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_serving.percentiles import percentiles

REFERENCE_CHUNK_TOKENS = 2048


class PrefillFacts(NamedTuple):
    """What is known of one request's prefill; the policy's own figures are None without a prefill policy."""

    request_class: str
    isolated_ns: int
    slowdown: float
    chunks: int | None = None
    pauses: int | None = None
    overtaken_ns: int | None = None
    bound_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Fairness:
    """Jain's index (Jain, Chiu and Hawe 1984) over slowdowns, over their inverses, and over class means.

    A policy that makes everybody equally slow scores well, so read it beside the mean slowdown.
    """

    slowdown: float
    inverse: float
    class_means: float


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """TTFT (ns) and slowdown of the requests of one class."""

    requests: int
    ttft_p50_ns: float
    ttft_p90_ns: float
    ttft_p99_ns: float
    ttft_p999_ns: float
    slowdown_mean: float
    slowdown_p99: float
    slowdown_max: float

    @staticmethod
    def of(ttft_ns: Sequence[int], slowdown: Sequence[float]) -> ClassSummary:
        """Summarise at least one request."""
        p50, p90, p99, p999 = percentiles(np.array(ttft_ns, np.float64), (50, 90, 99, 99.9))
        (slowdown_p99,) = percentiles(np.array(slowdown, np.float64), (99,))
        return ClassSummary(
            len(ttft_ns), p50, p90, p99, p999, float(np.mean(slowdown)), slowdown_p99, max(slowdown)
        )


def jain(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Jain's index of positive values: 1 if all are equal, 1/n if one has everything; 1.0 for none.

    >>> jain([1.0, 1.0]), jain([1.0, 0.0])
    (1.0, 0.5)
    """
    data = np.asarray(values, np.float64)
    return float(data.sum() ** 2 / (data.size * (data**2).sum())) if data.size else 1.0


def by_class(
    facts: Sequence[PrefillFacts], ttft_ns: Sequence[int]
) -> tuple[dict[str, ClassSummary], Fairness]:
    """Summaries by class, classes in alphabetical order, and how evenly slowdown is shared out."""
    groups: dict[str, list[tuple[int, float]]] = {}
    for one, ttft in zip(facts, ttft_ns, strict=True):
        groups.setdefault(one.request_class, []).append((ttft, one.slowdown))
    classes = {
        name: ClassSummary.of([ttft for ttft, _ in group], [slowdown for _, slowdown in group])
        for name, group in sorted(groups.items())
    }
    slowdowns = np.array([one.slowdown for one in facts], np.float64)
    means = [group.slowdown_mean for group in classes.values()]
    return classes, Fairness(jain(slowdowns), jain(1 / slowdowns), jain(means))


def class_of(given: str | None, prompt_tokens: int, long_prompt_tokens: int) -> str:
    """Class of a request: what the dataset says, else by the length of its prompt."""
    return given or ("long" if prompt_tokens >= long_prompt_tokens else "short")

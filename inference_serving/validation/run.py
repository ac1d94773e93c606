"""A run as its files tell it, real or simulated: requests with their times, or a throughput series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float64]
NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class ServedRequest:
    """One request that was served; times in ns, ``arrival_ns`` since the start of the run.

    ``itl_ns`` has the gaps between successive tokens, or between the chunks in which they were streamed;
    it is None if the run does not record them.
    """

    name: str
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    ttft_ns: int
    latency_ns: int
    itl_ns: Int64Array | None = None
    priority: int = 0

    @property
    def lengths(self) -> tuple[int, int]:
        """Prompt and generated tokens."""
        return self.prompt_tokens, self.output_tokens

    @property
    def end_ns(self) -> int:
        """When its last token came out."""
        return self.arrival_ns + self.latency_ns

    @property
    def tpot_ns(self) -> float | None:
        """Mean time per token after the first; None if there is no other token."""
        if self.output_tokens < 2:
            return None
        return (self.latency_ns - self.ttft_ns) / (self.output_tokens - 1)


@dataclass(frozen=True)
class Series:
    """Tokens a second; entry ``i`` is the mean over the interval from ``i`` to ``i + 1`` steps of ``step_s``.

    ``prompt`` is None where only generated tokens are known.
    """

    step_s: float
    generated: FloatArray
    prompt: FloatArray | None = None


@dataclass(frozen=True)
class LeftOut:
    """Requests that a reader or the matching took no account of, and why."""

    count: int
    why: str


@dataclass(frozen=True)
class Run:
    """What a file says of a run.

    ``arrivals_known`` is False where requests have an order but no arrival times. ``flags`` are the
    simulator's flags that the run's settings amount to, ``kv_blocks`` the KV blocks it had, if it says so.
    """

    file: Path
    format: str
    requests: tuple[ServedRequest, ...] = ()
    series: Series | None = None
    left_out: tuple[LeftOut, ...] = ()
    arrivals_known: bool = True
    flags: tuple[str, ...] = ()
    kv_blocks: int | None = None
    notes: tuple[str, ...] = ()


def span_ns(requests: Sequence[ServedRequest]) -> int:
    """From the first arrival to the last token of these requests; 0 without requests."""
    if not requests:
        return 0
    return max(one.end_ns for one in requests) - min(one.arrival_ns for one in requests)

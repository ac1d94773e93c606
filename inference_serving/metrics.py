"""Latencies of finished requests, and the throughput and distribution figures made from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from inference_serving.percentiles import percentiles
from inference_serving.request import Int64Array, Request


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Latencies of one finished request, in ns; ``itl_ns`` has one entry per output token after the first."""

    request: Request
    latency_ns: int
    queuing_delay_ns: int
    ttft_ns: int
    tpot_ns: int
    itl_ns: Int64Array


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean, median and 99th percentile of a latency, in ns (0 if there is no sample)."""

    mean_ns: float
    median_ns: float
    p99_ns: float
    samples: int

    @staticmethod
    def of(values: Sequence[int] | Int64Array) -> Distribution:
        """Summarise values in ns."""
        if len(values) == 0:
            return Distribution(0.0, 0.0, 0.0, 0)
        data = np.array(values, dtype=np.float64)
        mean = float(data.mean())
        median, p99 = percentiles(data, (50, 99))
        return Distribution(mean, median, p99, data.size)


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """TTFT, TPOT, ITL and latency of a group of requests."""

    requests: int
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    latency: Distribution


@dataclass(frozen=True, slots=True)
class ThroughputSummary:
    """Totals of a run; ``makespan_ns`` is the time at which the last request finished."""

    requests: int
    makespan_ns: int
    prompt_tokens: int
    generated_tokens: int

    def per_second(self, count: int) -> float:
        """``count`` over the makespan, per second."""
        return count * 1e9 / self.makespan_ns if self.makespan_ns else 0.0


def request_metrics(request: Request) -> RequestMetrics:
    """Latencies of one finished request.

    TTFT, TPOT and ITL follow the published CSV: TPOT is the time from the first to the last token divided
    by the tokens after the first (0 with a single token); the queuing delay ends when the request is first
    scheduled.
    """
    times_ns = request.token_times_ns()
    ttft_ns = int(times_ns[0]) - request.arrival_ns
    latency_ns = request.end_ns - request.arrival_ns
    after_first = max(request.output_tokens - 1, 1)
    return RequestMetrics(
        request=request,
        latency_ns=latency_ns,
        queuing_delay_ns=request.first_scheduled_ns - request.arrival_ns,
        ttft_ns=ttft_ns,
        tpot_ns=(latency_ns - ttft_ns) // after_first,
        itl_ns=times_ns[1:] - times_ns[:-1],
    )


def summarise(metrics: Sequence[RequestMetrics]) -> LatencySummary:
    """Distributions over a group of requests; TPOT and ITL only over requests with more than one token."""
    several = [one for one in metrics if one.request.output_tokens > 1]
    itl = np.concatenate([one.itl_ns for one in several]) if several else np.empty(0, dtype=np.int64)
    return LatencySummary(
        requests=len(metrics),
        ttft=Distribution.of([one.ttft_ns for one in metrics]),
        tpot=Distribution.of([one.tpot_ns for one in several]),
        itl=Distribution.of(itl),
        latency=Distribution.of([one.latency_ns for one in metrics]),
    )


def throughput(requests: Iterable[Request]) -> ThroughputSummary:
    """Totals over finished requests."""
    finished = list(requests)
    return ThroughputSummary(
        requests=len(finished),
        makespan_ns=max((request.end_ns for request in finished), default=0),
        prompt_tokens=sum(request.prompt_tokens for request in finished),
        generated_tokens=sum(request.output_tokens for request in finished),
    )

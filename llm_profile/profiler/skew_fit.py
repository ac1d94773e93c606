"""What an uneven decode batch costs between all at the mean KV and all at the longest, fitted per bucket.

The buckets are those of the published ``skew_fit.csv``; see :mod:`llm_profile.bundle_skew` for their reader.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from llm_profile.profiler.plan import Kind
from llm_profile.profiler.tables import Measured

_REQUESTS = ((2, 4, 8, 16, 32, 64, 128, 256), "n<={}", "n>256")
_SHARES = ((5, 15, 40, 70), "sr<={}%", "sr>70%")
_LONGEST = ((1, 4, 16), "kvB<={}k", "kvB>16k")
_CONTEXT_LIMITS = (0, 512, 1024, 2048, 4096, 8192)
_CONTEXT_LABELS = ("kp=0", "kp<=512", "kp<=1k", "kp<=2k", "kp<=4k", "kp<=8k", "kp>8k")
LEAST_SPREAD = 0.02
"""All-at-longest must take this much longer than all-at-mean for the difference to tell anything."""


@dataclass(frozen=True)
class SkewSample:
    """One uneven batch, and the same number of requests with equal KV."""

    chunk: int
    context: int
    requests: int
    long_requests: int
    short_kv: int
    long_kv: int
    mean_ns: float
    max_ns: float
    skew_ns: float

    @property
    def mean_kv(self) -> float:
        """Mean KV of a request."""
        short = self.requests - self.long_requests
        return (self.long_requests * self.long_kv + short * self.short_kv) / self.requests

    @property
    def alpha(self) -> float | None:
        """Where the batch lies between all at the mean (0) and all at the longest (1), if that can be told."""
        spread = self.max_ns - self.mean_ns
        return None if spread < LEAST_SPREAD * self.mean_ns else (self.skew_ns - self.mean_ns) / spread


@dataclass(frozen=True)
class Bucket:
    """``alpha`` of the samples with the same labels."""

    labels: tuple[str, ...]
    """Prefill chunk, requests, share of long ones, longest KV, context of the prefill."""
    alpha: float
    samples: int


def skew_samples(measured: Measured) -> list[SkewSample]:
    """The uneven batches among the measured points, sorted."""
    samples = []
    for point, times in sorted(measured.items(), key=lambda item: item[0].key):
        if point.kind == Kind.SKEW:
            chunk, context, requests, long, short_kv, long_kv = point.key
            mean, longest, skew = (times[name].median for name in ("mean", "max", "skew"))
            samples.append(SkewSample(chunk, context, requests, long, short_kv, long_kv, mean, longest, skew))
    return samples


def fit_buckets(samples: Sequence[SkewSample]) -> list[Bucket]:
    """Least-squares ``alpha`` of each bucket, between 0 and 1 (a batch is not cheaper than its mean)."""
    buckets: dict[tuple[str, ...], list[SkewSample]] = defaultdict(list)
    for sample in samples:
        if sample.alpha is not None:
            buckets[_labels(sample)].append(sample)
    fitted = []
    for labels, members in sorted(buckets.items(), key=lambda item: (int(item[0][0]), item[0][1:])):
        spreads = [one.max_ns - one.mean_ns for one in members]
        above = [one.skew_ns - one.mean_ns for one in members]
        alpha = sum(s * a for s, a in zip(spreads, above, strict=True)) / sum(s * s for s in spreads)
        fitted.append(Bucket(labels, min(1.0, max(0.0, alpha)), len(members)))
    return fitted


def _labels(sample: SkewSample) -> tuple[str, ...]:
    share = (sample.mean_kv - sample.short_kv) / (sample.long_kv - sample.short_kv)
    return (
        str(sample.chunk),
        _label(*_REQUESTS, sample.requests),
        _label(*_SHARES, 100 * share),
        _label(*_LONGEST, sample.long_kv / 1024),
        _CONTEXT_LABELS[bisect_left(_CONTEXT_LIMITS, sample.context)],
    )


def _label(limits: tuple[int, ...], inside: str, beyond: str, value: float) -> str:
    i = bisect_left(limits, value)
    return beyond if i == len(limits) else inside.format(limits[i])

"""Attention priced from measured shots, interpolated linearly, request by request."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from llm_profile.protocol import Source

Points = dict[int, dict[int, float]]
"""ns by first key (chunk size or batch size), then second key (context or total KV)."""

PROMPT_STEP = 32
"""Whole prompts are measured at every length; every 32nd is kept beyond the chunk sizes of attention.csv."""
ENOUGH_KV = 256
"""A row must span this many tokens of KV a request for its slope to be trusted."""


class Line:
    """A piecewise linear curve with a slope beyond its last point; constant before its first.

    >>> Line({0: 1.0, 10: 11.0}, beyond=2.0)(5), Line({0: 1.0, 10: 11.0}, beyond=2.0)(15)
    (6.0, 21.0)
    """

    __slots__ = ("_beyond", "last", "x", "y")

    def __init__(self, points: dict[int, float], beyond: float) -> None:
        self.x = sorted(points)
        self.y = [points[x] for x in self.x]
        self.last = self.x[-1]
        self._beyond = beyond

    def __call__(self, x: float) -> float:
        """Value at ``x``."""
        if x >= self.last:
            return self.y[-1] + (x - self.last) * self._beyond
        i = bisect_right(self.x, x)
        if i == 0:
            return self.y[0]
        x0, y0 = self.x[i - 1], self.y[i - 1]
        return y0 + (self.y[i] - y0) * (x - x0) / (self.x[i] - x0)


class PrefillCurves:
    """Time of one prefill chunk by chunk size and context.

    A chunk size measured with few contexts (such as ``prompt_ns``, whole prompts without any) grows with
    context by the cost of a (query, key) pair in the largest chunk; one smaller than all well-measured ones
    grows like the smallest of those. Beyond the largest chunk, time grows with the pairs.
    """

    def __init__(self, points: Points, prompt_ns: dict[int, float]) -> None:
        merged = {n: {0: prompt_ns[n], **rows} if n in prompt_ns else rows for n, rows in points.items()}
        smallest = min(points, default=0)
        for n, ns in prompt_ns.items():
            if n not in merged and (n % PROMPT_STEP == 0 or n < smallest):
                merged[n] = {0: ns}
        self._chunks = sorted(merged)
        self._pair_ns = _pair_cost(self._chunks[-1], merged[self._chunks[-1]])
        self._shortest = [min(merged[n]) for n in self._chunks]
        self._longest = [max(merged[n]) for n in self._chunks]
        trusted = [n for n in self._chunks if len(merged[n]) > 2 and _span(merged[n], 1) >= ENOUGH_KV]
        self._lines: list[Line] = []
        for n in self._chunks:
            rows = merged[n]
            if n in trusted:
                self._lines.append(Line(rows, _slope(rows)))
            elif trusted and n < trusted[0] and len(rows) == 1:
                self._lines.append(_grown_like(rows, merged[trusted[0]]))
            else:
                self._lines.append(Line(rows, n * self._pair_ns))

    def __call__(self, n: int, context: int) -> float:
        """Time in ns of ``n`` tokens on ``context`` cached ones."""
        chunks = self._chunks
        i = bisect_right(chunks, n)
        if i == len(chunks):
            last = chunks[-1]
            pairs = n * (context + n / 2) - last * (context + last / 2)
            return self._lines[-1](context) + pairs * self._pair_ns
        if i == 0:
            return self._lines[0](context)
        low, high = self._lines[i - 1](context), self._lines[i](context)
        return low + (high - low) * (n - chunks[i - 1]) / (chunks[i] - chunks[i - 1])

    def covers(self, n: int, context: int) -> bool:
        """Whether chunks of ``n`` tokens, or fewer and more, were measured with so long a context."""
        chunks = self._chunks
        i = bisect_right(chunks, n)
        if i and chunks[i - 1] == n:
            return self._shortest[i - 1] <= context <= self._longest[i - 1]
        if i in (0, len(chunks)):
            return False
        shortest, longest = max(self._shortest[i - 1 : i + 1]), min(self._longest[i - 1 : i + 1])
        return shortest <= context <= longest

    @property
    def least_ns(self) -> float:
        """The cheapest chunk measured: what launching a kernel costs."""
        return min(min(line.y) for line in self._lines)


def _pair_cost(n: int, rows: dict[int, float]) -> float:
    """Nanoseconds of one (query, key) pair of a chunk of ``n`` tokens, at its longest context."""
    context = max(rows)
    return rows[context] / (n * (context + n / 2))


def _grown_like(rows: dict[int, float], model: dict[int, float]) -> Line:
    """Curve of a chunk measured with one context, parallel to that of another chunk."""
    ((at, ns),) = rows.items()
    line = Line(model, _slope(model))
    grown = {x: max(0.0, ns + line(x) - line(at)) for x in line.x}
    return Line({**grown, at: ns}, _slope(model))


class DecodeCurves:
    """Time of a decode batch by number of requests and total KV.

    Between measured batch sizes it is interpolated at the same KV per request. Beyond the measured KV of a
    batch size, it grows with the slope of the largest batch whose row spans enough KV, which is the cost of
    reading a token with the card full.
    """

    def __init__(self, points: Points) -> None:
        self._batches = sorted(points)
        full = self._full_card_slope(points)
        self._lines = [
            Line(points[n], _slope(points[n]) if _span(points[n], n) >= ENOUGH_KV else full)
            for n in self._batches
        ]
        self._request_ns = self._cost_of_a_request()

    @staticmethod
    def _full_card_slope(points: Points) -> float:
        spans = {n: _span(rows, n) for n, rows in points.items()}
        enough = [n for n, span in spans.items() if span >= ENOUGH_KV]
        best = max(enough) if enough else max(spans, key=lambda n: spans[n])
        return _slope(points[best])

    def _cost_of_a_request(self) -> float:
        if len(self._batches) < 2:
            return 0.0
        low, high = self._batches[-2], self._batches[-1]
        total_kv = self._lines[-1].x[0]
        return max(0.0, (self._lines[-1](total_kv) - self._lines[-2](total_kv)) / (high - low))

    def __call__(self, requests: int, total_kv: int) -> float:
        """Time in ns of a batch of ``requests`` that read ``total_kv`` tokens together."""
        batches = self._batches
        i = bisect_right(batches, requests)
        if i and batches[i - 1] == requests:
            return self._lines[i - 1](total_kv)
        if i == 0:
            return self._lines[0](total_kv)
        if i == len(batches):
            return self._lines[-1](total_kv) + (requests - batches[-1]) * self._request_ns
        kv = total_kv / requests
        n0, n1 = batches[i - 1], batches[i]
        low, high = self._lines[i - 1](kv * n0), self._lines[i](kv * n1)
        return low + (high - low) * (requests - n0) / (n1 - n0)

    @property
    def least_ns(self) -> float:
        """The cheapest batch measured: what launching a kernel costs."""
        return min(min(line.y) for line in self._lines)

    def covers(self, requests: int, total_kv: int) -> bool:
        """Whether batches of this many requests, and fewer and more, were measured with so much KV each."""
        batches = self._batches
        i = bisect_right(batches, requests)
        if i and batches[i - 1] == requests:
            line = self._lines[i - 1]
            return line.x[0] <= total_kv <= line.last
        if i in (0, len(batches)):
            return False
        kv = total_kv / requests
        return all(self._lines[at].x[0] <= kv * batches[at] <= self._lines[at].last for at in (i - 1, i))


class AttentionTable:
    """Attention of a mixed batch: every prefill alone, all decodes together, one launch overhead."""

    def __init__(self, prefill: PrefillCurves, decode: DecodeCurves, floor_ns_per_token: float) -> None:
        self._prefill = prefill
        self._decode = decode
        self._floor_ns = floor_ns_per_token
        self._launch_ns = min(prefill.least_ns, decode.least_ns)

    def ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of the batch; at least a read of every request's KV, and the longest decode alone."""
        parts = [
            max(self._prefill(n, context), (n + context) * self._floor_ns)
            for n, context in zip(prefill_q.tolist(), prefill_context.tolist(), strict=True)
        ]
        if decode_kv.size:
            total = int(decode_kv.sum())
            batch = self._decode(decode_kv.size, total)
            longest_alone = self._decode(1, int(decode_kv.max()))
            parts.append(max(batch, longest_alone, total * self._floor_ns))
        if not parts:
            return 0
        launches_saved_ns = (len(parts) - 1) * self._launch_ns
        together: float = max(sum(parts) - launches_saved_ns, *parts)
        return round(together)

    def source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Whether every chunk, and the decodes together, lie inside the table."""
        chunks = zip(prefill_q.tolist(), prefill_context.tolist(), strict=True)
        inside = all(self._prefill.covers(n, context) for n, context in chunks) and (
            not decode_kv.size or self._decode.covers(decode_kv.size, int(np.add.reduce(decode_kv)))
        )
        return Source.INTERPOLATED if inside else Source.EXTRAPOLATED


class PredictedAttention(AttentionTable):
    """The same from a predictor's grids, which may reach beyond what was measured: ``measured`` tells how far."""

    def __init__(
        self,
        prefill: PrefillCurves,
        decode: DecodeCurves,
        floor_ns_per_token: float,
        measured: AttentionTable | None,
    ) -> None:
        super().__init__(prefill, decode, floor_ns_per_token)
        self._measured = measured

    def source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """As the measurements that the predictor was trained on; without these an estimate."""
        if self._measured is None:
            return Source.ESTIMATED
        return self._measured.source(prefill_q, prefill_context, decode_kv)


def _slope(points: dict[int, float]) -> float:
    """Least-squares slope of the upper half of a curve, never negative; 0 for a single point."""
    if len(points) < 2:
        return 0.0
    x = np.array(sorted(points), dtype=np.float64)
    y = np.array([points[int(at)] for at in x])
    keep = x >= min(x[-2], (x[0] + x[-1]) / 2)
    return max(0.0, float(np.polyfit(x[keep], y[keep], 1)[0]))


def _span(points: dict[int, float], requests: int) -> float:
    return (max(points) - min(points)) / requests

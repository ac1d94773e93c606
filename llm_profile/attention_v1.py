"""Attention tables of the published layout: measured shots, interpolated linearly, request by request.

``attention.csv`` has one row a shot. Of a prefill, ``kv_cache_size`` is the tokens already cached; of a
decode, it is the **batch's total** KV (in the TPU variant of the format, with ``p50_ns``, it is per request).
Without ``attention.csv``, the filled grids in ``predictions/`` are read instead.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from pathlib import Path

import numpy as np
from astra_sim.input_error import InputError
from numpy.typing import NDArray

from llm_profile.model_config import ModelConfig
from llm_profile.protocol import NoLatencyError, Source

Points = dict[int, dict[int, float]]
"""ns by first key (chunk size or batch size), then second key (context or total KV)."""

PROMPT_STEP = 32
"""Whole prompts are measured at every length; every 32nd is kept beyond the chunk sizes of attention.csv."""
ENOUGH_KV_PER_REQUEST = 256
"""A row of the decode table must span this many tokens a request for its slope to be trusted."""


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

    Chunk sizes that were measured with one context only (such as ``prompt_ns``, without any) take their
    growth with context from the nearest chunk size measured with several, in proportion to the chunk size.
    Beyond the largest chunk, time grows with the number of (query, key) pairs, ``n * (context + n / 2)``.
    """

    def __init__(self, points: Points, prompt_ns: dict[int, float]) -> None:
        merged = {n: {0: prompt_ns[n], **rows} if n in prompt_ns else rows for n, rows in points.items()}
        smallest = min(points, default=0)
        for n, ns in prompt_ns.items():
            if n not in merged and (n % PROMPT_STEP == 0 or n < smallest):
                merged[n] = {0: ns}
        lines = {n: Line(rows, _slope(rows)) for n, rows in merged.items()}
        with_context = {n: lines[n] for n in points if len(merged[n]) > 1}
        for n, rows in merged.items():
            if with_context and n not in with_context:
                lines[n] = _borrow_context(n, rows, with_context)
        self._chunks = sorted(lines)
        self._lines = [lines[n] for n in self._chunks]
        self._pair_ns = self._cost_of_a_pair()

    def _cost_of_a_pair(self) -> float:
        n, line = self._chunks[-1], self._lines[-1]
        return line(0) / (n * n / 2)

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

    @property
    def least_ns(self) -> float:
        """The cheapest chunk measured: what launching a kernel costs."""
        return min(min(line.y) for line in self._lines)


def _borrow_context(n: int, rows: dict[int, float], with_context: dict[int, Line]) -> Line:
    """Curve of a chunk measured with one context, grown like the nearest chunk measured with several."""
    nearest = min(with_context, key=lambda chunk: abs(chunk - n))
    line, scale = with_context[nearest], max(1.0, n / nearest)
    ((at, ns),) = rows.items()
    grown = {x: max(0.0, ns + scale * (line(x) - line(at))) for x in line.x}
    return Line({**grown, at: ns}, scale * (line(line.last + 1) - line(line.last)))


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
            Line(points[n], _slope(points[n]) if _span(points[n], n) >= ENOUGH_KV_PER_REQUEST else full)
            for n in self._batches
        ]
        self._request_ns = self._cost_of_a_request()

    @staticmethod
    def _full_card_slope(points: Points) -> float:
        spans = {n: _span(rows, n) for n, rows in points.items()}
        enough = [n for n, span in spans.items() if span >= ENOUGH_KV_PER_REQUEST]
        best = max(enough) if enough else max(spans, key=lambda n: spans[n])
        return _slope(points[best])

    def _cost_of_a_request(self) -> float:
        if len(self._batches) < 2:
            return 0.0
        low, high = self._batches[-2], self._batches[-1]
        at = self._lines[-1].x[0] / high
        return max(0.0, (self._lines[-1](at * high) - self._lines[-2](at * low)) / (high - low))

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

    @property
    def largest_kv(self) -> int:
        """Largest total KV measured with any batch size."""
        return max(line.last for line in self._lines)


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
        return int(round(max(sum(parts) - launches_saved_ns, *parts)))

    def source(self, total_kv: int) -> Source:
        """Whether a decode batch with this total KV lies inside the table."""
        return Source.INTERPOLATED if total_kv <= self._decode.largest_kv else Source.EXTRAPOLATED


def read_attention(
    folder: Path, model: ModelConfig, tp_size: int, *, prompt_ns: dict[int, float], floor_ns_per_token: float
) -> AttentionTable:
    """Read the attention tables of ``folder``; ``prompt_ns`` are prompts without history from layers.csv."""
    file = folder / "attention.csv"
    if file.is_file():
        prefill, decode = _read_measured(file, model, tp_size)
    else:
        prefill, decode = _read_predictions(folder)
        prompt_ns = {}
    if not (prefill or prompt_ns) or not decode:
        missing = "decode" if prefill or prompt_ns else "prefill"
        raise InputError(file, "is_prefill", f"no {missing} rows")
    return AttentionTable(PrefillCurves(prefill, prompt_ns), DecodeCurves(decode), floor_ns_per_token)


def _read_measured(file: Path, model: ModelConfig, tp_size: int) -> tuple[Points, Points]:
    """Points of ``attention.csv``, medians in ns; GPU files are in ms with the batch's total KV."""
    prefill: Points = {}
    decode: Points = {}
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        column = {name: i for i, name in enumerate(next(reader, []))}
        per_request = "p50_ns" in column
        scale = 1.0 if per_request else 1e6
        names = ("p50_ns", "p50_ns") if per_request else _GPU_MEDIANS
        try:
            prefill_at, decode_at = (column[name] for name in names)
            shape_at = tuple(column[name] for name in _SHAPE_COLUMNS)
        except KeyError as error:
            raise InputError(file, "line 1", f"no column {error.args[0]}") from None
        checks = [] if per_request else _shape_checks(file, column, model, tp_size)
        for row in reader:
            try:
                batch, chunk, kv = (int(row[i]) for i in shape_at[:3])
                is_prefill = row[shape_at[3]] == "True"
                ns = float(row[prefill_at if is_prefill else decode_at]) * scale
                wrong = next((c for c in checks if int(row[c[0]]) != c[1]), None)
            except (ValueError, IndexError):
                raise InputError(file, f"line {reader.line_num}", f"not a row of the table: {row}") from None
            if wrong:
                raise InputError(
                    file, f"line {reader.line_num}", f"{wrong[2]} is {row[wrong[0]]}, not {wrong[1]}"
                )
            if is_prefill:
                if batch == 1:
                    prefill.setdefault(chunk, {})[kv] = ns
            else:
                _add_decode(decode, batch, kv * batch if per_request else kv, ns)
    return prefill, decode


_GPU_MEDIANS = ("time_stats.attn_prefill.median", "time_stats.attn_decode.median")
_SHAPE_COLUMNS = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill")


def _shape_checks(
    file: Path, column: dict[str, int], model: ModelConfig, tp_size: int
) -> list[tuple[int, int, str]]:
    """(column, value it must have, its name) of what identifies the model."""
    wanted = {
        "n_q_head": model.num_attention_heads,
        "n_kv_head": model.num_key_value_heads,
        "num_tensor_parallel_workers": tp_size,
    }
    missing = [name for name in wanted if name not in column]
    if missing:
        raise InputError(file, "line 1", f"no column {missing[0]}")
    return [(column[name], value, name) for name, value in wanted.items()]


def _add_decode(decode: Points, batch: int, total_kv: int, ns: float) -> None:
    """Keep shots in which every request has at least one token; others measured an empty kernel."""
    if total_kv >= batch:
        decode.setdefault(batch, {})[total_kv] = ns


def _read_predictions(folder: Path) -> tuple[Points, Points]:
    """Points of the filled grids, in ns."""
    prefill: Points = {}
    decode: Points = {}
    prefill_file = folder / "predictions" / "attn_prefill_predictions.csv"
    decode_file = folder / "predictions" / "attn_decode_predictions.csv"
    for file in (prefill_file, decode_file):
        if not file.is_file():
            raise NoLatencyError(
                folder, "", "has neither attention.csv nor predictions/ of prefill and decode"
            )
    for kv, chunk, ns in _read_grid(prefill_file, ["kv_cache_size", "prefill_chunk_size", "prediction"]):
        prefill.setdefault(int(chunk), {})[int(kv)] = ns
    for batch, kv, ns in _read_grid(decode_file, ["batch_size", "kv_cache_size", "prediction"]):
        _add_decode(decode, int(batch), int(kv), ns)
    return prefill, decode


def _read_grid(file: Path, columns: list[str]) -> list[list[float]]:
    with file.open(encoding="utf-8") as stream:
        header = stream.readline().strip().split(",")
        if header != columns:
            raise InputError(
                file, "line 1", f"expected the columns {','.join(columns)}, not {','.join(header)}"
            )
        try:
            grid: list[list[float]] = np.loadtxt(stream, delimiter=",", ndmin=2).tolist()
        except ValueError as error:
            raise InputError(file, "", f"not a table of numbers: {error}") from None
    return grid


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

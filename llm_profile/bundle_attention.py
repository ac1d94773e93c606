"""Attention of a batch from a bundle's ``attention.csv``, keyed by (prefill chunk, its context, decodes, KV).

Three tables: prefill alone, decode alone, and one prefill beside a batch of decodes of equal KV. Between
measured points time is a straight line along every axis.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.bundle_grid import Axis, along, axis_of, fill, on_line, scatter
from llm_profile.bundle_skew import SkewTable
from llm_profile.plausible import refuse_impossible_attention
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.table_csv import MICROSECONDS, Floats, Ints, Rows, read_key_rows, refuse_cliffs_along

COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
CHUNK, CONTEXT, REQUESTS, KV = range(4)


class PrefillGrid:
    """Time of one prefill alone, by chunk and context; beyond the largest chunk it grows with the pairs."""

    def __init__(self, keys: Ints, ns: Floats, contexts: Axis) -> None:
        self.chunks = axis_of(keys[:, CHUNK])
        self.contexts = contexts
        self.grid = fill(scatter(keys[:, :2], ns, (self.chunks, contexts)), (self.chunks, contexts), (1, 0))
        self.least_ns = float(ns.min())
        last = self.chunks.last
        self._longest = _longest(keys[:, CHUNK], keys[:, CONTEXT])
        longest = self._longest[-1]
        self._pair_ns = self.at(last, longest) / (last * (longest + last / 2))

    def at(self, chunk: int, context: int) -> float:
        """Time in ns of ``chunk`` tokens on ``context`` cached ones."""
        inside = min(chunk, self.chunks.last)
        row = along(self.grid, self.chunks.cell(inside))
        ns = on_line(row, self.contexts.cell(context))
        return ns if chunk == inside else ns + self.beyond(chunk, context)

    def covers(self, chunk: int, context: int) -> bool:
        """Whether this chunk, or its neighbours, were measured on a context as long."""
        return _covers(self.chunks, self._longest, chunk, context)

    def beyond(self, chunk: int, context: int) -> float:
        """What a chunk takes longer than the largest measured one: its additional (query, key) pairs."""
        last = self.chunks.last
        if chunk <= last:
            return 0.0
        return self._pair_ns * (chunk * (context + chunk / 2) - last * (context + last / 2))


class DecodeGrid:
    """Time of a decode batch of equal KV lengths alone, by requests and KV of each."""

    def __init__(self, keys: Ints, ns: Floats) -> None:
        self.requests, self.kv = axis_of(keys[:, REQUESTS]), axis_of(keys[:, KV])
        axes = (self.requests, self.kv)
        self.grid = fill(scatter(keys[:, 2:], ns, axes), axes, (1, 0))
        self.least_ns = float(ns.min())
        self.alone = self.line(1)
        self._longest = _longest(keys[:, REQUESTS], keys[:, KV])

    def covers(self, requests: int, kv: int) -> bool:
        """Whether this many requests, or their neighbours, were measured with as much KV each."""
        return kv >= self.kv.knots[0] and _covers(self.requests, self._longest, requests, kv)

    def line(self, requests: int) -> Floats:
        """Times by KV (knots of ``kv``) of a batch of ``requests``."""
        return along(self.grid, self.requests.cell(requests))


class MixedGrid:
    """Time of one prefill beside decodes of equal KV, by all four keys.

    Holes (the measured grids differ by chunk) are filled in what the decodes add to the prefill alone.
    """

    def __init__(self, keys: Ints, ns: Floats, prefill: PrefillGrid) -> None:
        self._prefill = prefill
        axes = [axis_of(keys[:, i]) for i in range(4)]
        axes[CONTEXT] = prefill.contexts
        self.axes = axes
        alone = np.array(
            [[prefill.at(chunk, h) for h in axes[CONTEXT].knots] for chunk in axes[CHUNK].knots]
        )[:, :, None, None]
        added = scatter(keys, ns, axes) - alone
        self.grid = fill(added, axes, (KV, CONTEXT, CHUNK, REQUESTS)) + alone

    def line(self, chunk: int, context: int, requests: int) -> Floats:
        """Times by KV of the decodes (knots of the last axis)."""
        block: Floats = self.grid
        last = self.axes[CHUNK].last
        for axis, value in zip(self.axes[:KV], (min(chunk, last), context, requests), strict=True):
            block = along(block, axis.cell(value))
        if chunk > last:
            block = np.add(block, self._prefill.beyond(chunk, context))
        return block


class BundleAttention:
    """Attention of a batch: the costliest prefill together with the decodes, every other one on its own."""

    def __init__(self, rows: Rows, skew: SkewTable | None, floor_ns_per_token: float) -> None:
        keys, ns = rows.keys, rows.ns
        prefilling, decoding = keys[:, CHUNK] > 0, keys[:, REQUESTS] > 0
        alone = prefilling & ~decoding
        self._prefill = PrefillGrid(keys[alone], ns[alone], axis_of(keys[prefilling, CONTEXT]))
        self._decode = DecodeGrid(keys[decoding & ~prefilling], ns[decoding & ~prefilling])
        both = prefilling & decoding
        self._mixed = MixedGrid(keys[both], ns[both], self._prefill) if both.any() else None
        self._skew = skew
        self._floor_ns = floor_ns_per_token
        self._launch_ns = min(self._prefill.least_ns, self._decode.least_ns)

    def ns(
        self,
        prefill_q: NDArray[np.int64],
        prefill_context: NDArray[np.int64],
        decode_kv: NDArray[np.int64],
    ) -> int:
        """Time of the batch; at least a read of every request's KV."""
        requests = decode_kv.size
        total_kv = int(decode_kv.sum()) if requests else 0
        if not prefill_q.size:
            if not requests:
                return 0
            ns = self._decode_ns(decode_kv, total_kv)
            return round(max(ns, total_kv * self._floor_ns))
        chunks, contexts = prefill_q.tolist(), prefill_context.tolist()
        at = self._prefill.at
        alone = [at(chunk, context) for chunk, context in zip(chunks, contexts, strict=True)]
        main = alone.index(max(alone)) if len(alone) > 1 else 0
        others_ns = sum(alone) - alone[main] - (len(alone) - 1) * self._launch_ns
        ns = alone[main]
        if requests:
            ns = self._mixed_ns(chunks[main], contexts[main], ns, decode_kv, total_kv)
        total_kv += sum(chunks) + sum(contexts)
        together: float = max(ns + max(others_ns, 0.0), total_kv * self._floor_ns)
        return round(together)

    def _decode_ns(self, decode_kv: NDArray[np.int64], total_kv: int) -> float:
        line, axis = self._decode.line(decode_kv.size), self._decode.kv
        ns = self._uneven(line, axis, 0, 0, decode_kv, total_kv)
        longest = int(decode_kv.max())
        return max(ns, on_line(self._decode.alone, axis.cell(longest)))

    def _mixed_ns(
        self, chunk: int, context: int, alone_ns: float, decode_kv: NDArray[np.int64], total_kv: int
    ) -> float:
        if self._mixed is None:
            return alone_ns + self._decode_ns(decode_kv, total_kv) - self._launch_ns
        line = self._mixed.line(chunk, context, decode_kv.size)
        return self._uneven(line, self._mixed.axes[KV], chunk, context, decode_kv, total_kv)

    def _uneven(
        self,
        line: Floats,
        axis: Axis,
        chunk: int,
        context: int,
        decode_kv: NDArray[np.int64],
        total_kv: int,
    ) -> float:
        """Between all decodes at the mean KV and all at the longest."""
        requests = decode_kv.size
        mean = total_kv / requests
        t_mean = on_line(line, axis.cell(mean))
        if self._skew is None or requests == 1:
            return t_mean
        longest, shortest = int(decode_kv.max()), int(decode_kv.min())
        if longest == shortest:
            return t_mean
        alpha = self._skew.alpha(chunk, context, requests, shortest, mean, longest)
        return t_mean + alpha * (on_line(line, axis.cell(longest)) - t_mean)

    def source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Whether every chunk, and the decodes at their longest, were measured alone, or smaller and larger ones."""
        chunks = zip(prefill_q.tolist(), prefill_context.tolist(), strict=True)
        inside = all(self._prefill.covers(chunk, context) for chunk, context in chunks) and (
            not decode_kv.size or self._decode.covers(decode_kv.size, int(np.maximum.reduce(decode_kv)))
        )
        return Source.INTERPOLATED if inside else Source.EXTRAPOLATED


def _longest(knots: Ints, lengths: Ints) -> list[int]:
    """Longest length measured at each knot."""
    return [int(lengths[knots == knot].max()) for knot in np.unique(knots)]


def _covers(axis: Axis, longest: list[int], at: int, length: int) -> bool:
    if not axis.knots[0] <= at <= axis.last:
        return False
    i, part = axis.cell(at)
    around = (i, i + 1) if 0 < part < 1 else (i + int(part),)
    return all(length <= longest[knot] for knot in around)


def read_attention_rows(file: Path, query: LatencyQuery) -> Rows:
    """Rows of ``attention.csv``, every one checked; both prefill alone and decode alone must be in it."""
    rows = read_key_rows(file, COLUMNS, ("time_us", MICROSECONDS))
    _check_keys(rows)
    chunk, context, requests, kv = rows.keys.T
    total_kv = requests * kv
    pairs, read = chunk * (context + chunk / 2) + total_kv, chunk + context + total_kv

    def say(row: int) -> str:
        parts = [f"a chunk of {chunk[row]} on {context[row]}"] if chunk[row] else []
        parts += [f"a decode of {requests[row]} with {kv[row]} of KV each"] if requests[row] else []
        return " beside ".join(parts)

    refuse_impossible_attention(rows, pairs, read, query, say)
    refuse_cliffs_along(rows, COLUMNS, range(4))
    return rows


def _check_keys(rows: Rows) -> None:
    keys = rows.keys
    for count, of, needs in ((CHUNK, CONTEXT, False), (REQUESTS, KV, True)):
        wrong = (keys[:, count] == 0) & (keys[:, of] > 0)
        if needs:
            wrong |= (keys[:, count] > 0) & (keys[:, of] == 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            got = f"{COLUMNS[of]} is {keys[row, of]} with {COLUMNS[count]} {keys[row, count]}"
            raise InputError(rows.file, f"line {int(rows.lines[row])}", f"{got}: cannot be")
    empty = (keys[:, CHUNK] == 0) & (keys[:, REQUESTS] == 0)
    if empty.any():
        line = int(rows.lines[np.argmax(empty)])
        raise InputError(rows.file, f"line {line}", "neither a prefill nor a decode")
    for name, other in ((CHUNK, REQUESTS), (REQUESTS, CHUNK)):
        if not ((keys[:, name] > 0) & (keys[:, other] == 0)).any():
            raise InputError(rows.file, "", f"no rows of {COLUMNS[name]} > 0 with {COLUMNS[other]} 0")

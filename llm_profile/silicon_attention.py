"""Attention of a batch from measured whole prompts and decode batches.

A prefill kernel gives one thread block a tile of queries of one head, and the block walks over the keys. From
the longest measured prompt follows what one (query, key) pair costs on a full card, and from that how fast a
block walks. A chunk on a history takes its time without history plus the history's keys for every wave of
blocks; so does each decode of a mixed batch in a kernel that computes both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_profile.attention_v1 import DecodeCurves, Line, Points
from llm_profile.protocol import Source
from llm_profile.silicon_systems import System

BLOCK_NS = 4000.0
"""What a decode costs a thread block of a mixed FlashAttention 2 batch before its first key."""
CACHE_MISSES = 0.5
"""How often a further query head of a K/V head, in another block of such a batch, reads the KV from memory."""


@dataclass(frozen=True)
class Geometry:
    """Attention of one layer on one rank of a card."""

    heads: int
    kv_heads: int
    kv_bytes: int
    """Bytes of K and V of a token."""
    bandwidth_gbps: float


class SiliconAttention:
    """Time of one layer's attention."""

    def __init__(
        self,
        prefill: NDArray[np.float64],
        decode: NDArray[np.float64],
        system: System,
        geometry: Geometry,
    ) -> None:
        prompts = {int(n): float(ns) for n, ns in prefill}
        points = _read_from_memory(decode, system.cache_mb * 1e6 / geometry.kv_bytes)
        self._longest = max(prompts)
        self._pair_ns = prompts[self._longest] / (self._longest**2 / 2)
        self._prompt = Line(prompts, beyond=0.0)
        self._decode = DecodeCurves(points)
        self._launch_ns = min(*prompts.values(), self._decode.least_ns)
        self._tile = system.query_tile
        self._waves_of_tile = geometry.heads / system.multiprocessors
        self._key_ns = self._pair_ns * system.query_tile / self._waves_of_tile
        self._varlen = system.varlen
        self._floor_ns = geometry.kv_bytes / geometry.bandwidth_gbps
        self._reads = 1 + CACHE_MISSES * (geometry.heads / geometry.kv_heads - 1)

    def ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of a batch: as long as all its work takes, and as its longest part alone."""
        chunks = list(zip(prefill_q.tolist(), prefill_context.tolist(), strict=True))
        if not chunks:
            return round(self._decodes(decode_kv)) if decode_kv.size else 0
        alone = max(self._chunk(n, context) for n, context in chunks)
        work = sum(self._chunk_work(n, context) for n, context in chunks)
        if decode_kv.size:
            if self._varlen:
                work += self._mixed_decode_work(decode_kv)
                alone = max(alone, self._launch_ns + int(decode_kv.max()) * self._key_ns)
            else:
                work += self._decodes(decode_kv) - self._launch_ns
        return round(max(self._launch_ns + work, alone))

    def source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Whether all keys of a chunk are as few as those of a measured prompt, and the decodes inside the rows."""
        keys = int((prefill_q + prefill_context).max()) if prefill_q.size else 0
        inside = keys <= self._longest and (
            not decode_kv.size or self._decode.covers(decode_kv.size, int(np.add.reduce(decode_kv)))
        )
        return Source.INTERPOLATED if inside else Source.EXTRAPOLATED

    def _whole_prompt(self, n: int) -> float:
        """A prompt without history; beyond the longest measured one, time grows with the pairs."""
        beyond = max(0, n**2 - self._longest**2) / 2 * self._pair_ns
        return self._prompt(n) + beyond

    def _tiles(self, n: int) -> int:
        return -(-n // self._tile)

    def _chunk(self, n: int, context: int) -> float:
        """A chunk alone: a decode of the same KV, or a read of it, is never slower."""
        waves = -(-self._tiles(n) * self._waves_of_tile // 1)
        walked = self._whole_prompt(n) + context * self._key_ns * waves
        return max(walked, self._decode(1, n + context), (n + context) * self._floor_ns)

    def _chunk_work(self, n: int, context: int) -> float:
        """What a chunk adds to a batch that fills the card."""
        walked = context * self._key_ns * self._tiles(n) * self._waves_of_tile
        work = self._whole_prompt(n) - self._launch_ns + walked
        return max(work, (n + context) * self._floor_ns - self._launch_ns)

    def _mixed_decode_work(self, kv: NDArray[np.int64]) -> float:
        total = int(kv.sum())
        walked = (total * self._key_ns + kv.size * BLOCK_NS) * self._waves_of_tile
        return max(walked, total * self._floor_ns * self._reads)

    def _decodes(self, kv: NDArray[np.int64]) -> float:
        total, longest = int(kv.sum()), int(kv.max())
        together = self._decode(kv.size, total)
        return max(together, self._decode(1, longest), total * self._floor_ns)


def _read_from_memory(decode: NDArray[np.float64], cache_tokens: float) -> Points:
    """Decode rows, without those whose KV came from the cache but would not in an engine.

    Rows are measured by repeating one kernel, so that KV stays in the cache; in an engine all other layers pass
    through it in between. What is left is a few tokens, where this does not matter, and more than fits.
    """
    points: Points = {}
    for requests, kv, ns in decode:
        if not cache_tokens / 16 < requests * kv < 2 * cache_tokens:
            points.setdefault(int(requests), {})[int(requests * kv)] = float(ns)
    return points

"""A second tier of the prefix cache, in host or CXL memory: chunks of prompts' KV, least recently used out first.

As LMCache does it (Cheng et al., 2025): chunks of many tokens, known by a hash chained over all chunks up to it, are
written when they have been computed, and looked up for what the NPU's own cache does not have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from inference_serving.kv_cache import PrefixStatistics
from inference_serving.memory_places import MemoryId
from inference_serving.placement import Place
from inference_serving.tiers.spare_memory import SpareMemory


class ChunkKey(NamedTuple):
    """What a chunk is known by: KV of another model, precision or split is another chunk."""

    kind: str
    chunk_hash: bytes


class PrefixPool:
    """The chunks of one instance, or of several that share them, in one memory or spread over CXL devices.

    ``limit_bytes`` is the most that they take of what is free in ``memories`` (of each an equal part).
    """

    def __init__(self, name: str, memories: Sequence[MemoryId], spare: SpareMemory, limit_bytes: int) -> None:
        self.name = name
        self.memories = tuple(memories)
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.evicted_chunks = 0
        self.statistics = PrefixStatistics()
        self._spare = spare
        self._chunks: OrderedDict[ChunkKey, int] = OrderedDict()
        spare.add_reclaimer(self._reclaim)

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._chunks

    @property
    def chunks(self) -> int:
        """Chunks that are here."""
        return len(self._chunks)

    @property
    def places(self) -> list[Place]:
        """The memories as an instance calls them."""
        return [memory.place for memory in self.memories]

    def leading(self, keys: Sequence[ChunkKey]) -> int:
        """How many of a prompt's chunks are here, from its first on."""
        for found, key in enumerate(keys):
            if key not in self._chunks:
                return found
        return len(keys)

    def touch(self, keys: Sequence[ChunkKey]) -> None:
        """Note that chunks have been used; the head of a prefix is used after its tail, so that it stays longer."""
        for key in reversed(keys):
            if key in self._chunks:
                self._chunks.move_to_end(key)

    def store(self, key: ChunkKey, size_bytes: int) -> bool:
        """Keep a chunk; the least recently used go. False if it does not fit at all."""
        if key in self._chunks:
            return True
        needs = self._needs(size_bytes)
        while self._chunks and (
            self.used_bytes + size_bytes > self.limit_bytes or not self._spare.fits(needs)
        ):
            self._evict()
        if self.used_bytes + size_bytes > self.limit_bytes or not self._spare.take(needs):
            return False
        self._chunks[key] = size_bytes
        self.used_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return True

    def _evict(self) -> None:
        _, size_bytes = self._chunks.popitem(last=False)
        self.used_bytes -= size_bytes
        self.evicted_chunks += 1
        self._spare.give_back(self._needs(size_bytes))

    def _reclaim(self, needs: Mapping[MemoryId, int]) -> None:
        if set(needs).isdisjoint(self.memories):
            return
        while self._chunks and not self._spare.fits(needs):
            self._evict()

    def _needs(self, size_bytes: int) -> dict[MemoryId, int]:
        return dict.fromkeys(self.memories, -(-size_bytes // len(self.memories)))

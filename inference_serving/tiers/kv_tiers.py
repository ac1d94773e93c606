"""KV of one instance beyond its NPUs: that of preempted requests, and prefixes in a pool.

Both are loaded instead of computed when a request starts. Their bytes are rows of the iteration that needs them:
``kv_evict`` and ``kv_load`` before its layers, which wait for them, ``kv_store`` after, beside whatever is left.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_cache import PrefixStatistics
from inference_serving.layer_group import LayerGroup
from inference_serving.memory_places import MemoryId
from inference_serving.placement import Place
from inference_serving.prefix_cache import block_hashes
from inference_serving.request import Int64Array, Request
from inference_serving.tiers.prefix_pool import ChunkKey, PrefixPool
from inference_serving.tiers.spare_memory import SpareMemory
from inference_serving.trace_shape import KvMoveKind
from llm_profile.layers import kv_bytes_per_token


@dataclass(slots=True)
class SwapStatistics:
    """KV tokens of preempted requests that were kept elsewhere, brought back, and dropped: for want of room, or
    because the request's last token was on its way already."""

    evicted_tokens: int = 0
    reloaded_tokens: int = 0
    dropped_tokens: int = 0


class KvTiers:
    """What an instance keeps elsewhere; ``pool`` may be shared with other instances.

    ``swaps`` says whether the KV of preempted requests is kept, in the places that the placement names.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        spare: SpareMemory,
        pool: PrefixPool | None = None,
        chunk_tokens: int = 256,
    ) -> None:
        self.pool = pool
        self.chunk_tokens = chunk_tokens
        self.statistics = PrefixStatistics()
        self.swap_statistics = SwapStatistics()
        self._spare = spare
        self.swaps = spec.placement.swaps
        layer = kv_bytes_per_token(spec.model, spec.tp_size, spec.precision.kv_bits)
        self._rank_bytes = layer * spec.model.num_hidden_layers
        self._ranks = spec.tp_size
        self._kind = f"{spec.model.name}/{spec.precision.kv_bits}/{spec.tp_size}"
        blocks = spec.model.num_hidden_layers
        self._blocks = [stage.blocks(blocks) for stage in spec.stages()] or [range(blocks)]
        """Blocks of each pipeline stage; a rank has the KV of those of its stage."""
        self._layer_bytes = layer
        self._swap_memory: Counter[MemoryId] = Counter()
        for block in spec.placement.blocks if self.swaps else ():
            self._swap_memory[MemoryId.of(block.evicted_kv, spec.node_id)] += layer * spec.tp_size
        self._swap_moves = [self._swapped(spec, numbers) for numbers in self._blocks]
        self._moves: list[Counter[KvMoveKind]] = [Counter() for _ in self._blocks]
        self._pending: dict[ChunkKey, int] = {}
        self._writing: deque[dict[ChunkKey, int]] = deque()
        """Chunks of the iterations that have been formed and have not ended, oldest first."""

    def _swapped(self, spec: InstanceSpec, blocks: range) -> Counter[Place]:
        """Bytes of a token that a rank moves to each place if its request gives way, for these blocks."""
        moves: Counter[Place] = Counter()
        for block in [spec.placement.blocks[number] for number in blocks] if self.swaps else ():
            if block.kv != block.evicted_kv:
                moves[block.evicted_kv] += self._layer_bytes
        return moves

    def available(self, request: Request, here: int) -> int:
        """Tokens of a request without KV that need not be computed, of which ``here`` are on the NPU."""
        if request.swapped_tokens > here:
            return request.swapped_tokens
        if self.pool is None or not request.token_ids:
            return here
        found = self.pool.leading(self._keys(request)) * self.chunk_tokens
        return max(here, min(found, request.num_tokens - 1))

    def claim(self, request: Request, here: int, first_time: bool) -> int:
        """Load what :meth:`available` has beyond the NPU; returns the tokens that need not be computed."""
        tokens = self.available(request, here)
        loaded = tokens - here
        kept = request.swapped_tokens > here
        if kept:
            self.swap_statistics.reloaded_tokens += loaded
            self._swap("kv_load", loaded)
        if request.swapped_tokens:
            self._forget_swapped(request)
        if not kept and self.pool is not None:
            if first_time:
                request.storage_hit_tokens = loaded
                for statistics in (self.statistics, self.pool.statistics):
                    statistics.queried_tokens += request.num_tokens
                    statistics.hit_tokens += loaded
            if loaded:
                self.pool.touch(self._keys(request)[: -(-tokens // self.chunk_tokens)])
                self._add_pool_moves(self._moves, "kv_load", loaded)
        return tokens

    def evict(self, request: Request, tokens: int) -> None:
        """A request gives up its blocks: keep its first ``tokens`` tokens' KV, if the placement says so and it fits."""
        if self._pending:
            self._pending = {key: who for key, who in self._pending.items() if who != request.request_id}
        request.written_chunks = 0
        if not self.swaps or not tokens:
            return
        if not self._spare.keep(self._swap_needs(tokens)):
            self.swap_statistics.dropped_tokens += tokens
            return
        request.swapped_tokens = tokens
        self.swap_statistics.evicted_tokens += tokens
        self._swap("kv_evict", tokens)

    def forget(self, request: Request) -> None:
        """A request has ended while its KV was kept: nobody needs it any more."""
        if request.swapped_tokens:
            self.swap_statistics.dropped_tokens += request.swapped_tokens
            self._forget_swapped(request)

    def write(self, requests: Sequence[Request], computed: Int64Array, grants: Int64Array) -> None:
        """Rows of the coming iteration: it stores the full chunks of known tokens that it completes."""
        if self.pool is None:
            return
        chunk = self.chunk_tokens
        for row in np.flatnonzero((computed + grants) // chunk > computed // chunk).tolist():
            request = requests[row]
            keys = self._keys(request)[: int(computed[row] + grants[row]) // chunk]
            for key in keys[request.written_chunks :]:
                if key not in self.pool and not any(key in chunks for chunks in self._writing):
                    self._pending.setdefault(key, request.request_id)
            request.written_chunks = max(request.written_chunks, len(keys))

    def commit(self) -> None:
        """The oldest iteration that is under way has ended: what it wrote can be found."""
        written = self._writing.popleft()
        if self.pool is not None:
            for key in reversed(written):  # the tail of a prefix is the first to go
                self.pool.store(key, self.chunk_tokens * self._rank_bytes * self._ranks)

    def take_moves(self, layer_group: LayerGroup) -> Sequence[Mapping[KvMoveKind, int]]:
        """Bytes of each NPU that come before the first layer group and after the last, by pipeline stage and kind
        of row."""
        moves: list[Counter[KvMoveKind]] = [Counter() for _ in self._blocks]
        if layer_group.is_first:
            moves, self._moves = self._moves, moves
        if layer_group.is_last:
            if self._pending:
                self._add_pool_moves(moves, "kv_store", len(self._pending) * self.chunk_tokens)
            self._writing.append(self._pending)
            self._pending = {}
        return moves

    def _swap(self, name: str, tokens: int) -> None:
        for moves, layer_bytes in zip(self._moves, self._swap_moves, strict=True):
            for place, size in layer_bytes.items():
                moves[KvMoveKind(name, place)] += size * tokens

    def _add_pool_moves(self, moves: Sequence[Counter[KvMoveKind]], name: str, tokens: int) -> None:
        assert self.pool is not None
        places = self.pool.places
        for stage_moves, blocks in zip(moves, self._blocks, strict=True):
            share = -(-tokens * self._layer_bytes * len(blocks) // len(places))
            stage_moves.update({KvMoveKind(name, place): share for place in places})

    def _forget_swapped(self, request: Request) -> None:
        self._spare.give_back(self._swap_needs(request.swapped_tokens))
        request.swapped_tokens = 0

    def _swap_needs(self, tokens: int) -> dict[MemoryId, int]:
        return {memory: size * tokens for memory, size in self._swap_memory.items()}

    def _keys(self, request: Request) -> list[ChunkKey]:
        if len(request.token_ids) < self.chunk_tokens:
            return []
        if not request.chunk_keys or request.chunk_keys[0].kind != self._kind:
            hashes = block_hashes(request.token_ids, self.chunk_tokens)
            request.chunk_keys = [ChunkKey(self._kind, one) for one in hashes]
        return request.chunk_keys

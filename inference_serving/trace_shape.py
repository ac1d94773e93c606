"""The structure of one iteration's trace, without its numbers: built once per instance, layer group and KV targets.

Numbers are kept apart so that they can change every iteration while the structure, and the graph that the
engine compiled from it, stay. A row names *slots*: positions in the trace's ``durations_ns`` and ``sizes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_transfer import HeadTransfer
from inference_serving.pipeline.stage import PipelineStage
from inference_serving.placement import NPU, Place
from inference_serving.request import Int64Array
from llm_profile.layers import EXPERTS, GATE, LAYERS, OTHER_LAYERS

DURATION_SLOT = {layer: slot for slot, layer in enumerate((*LAYERS, *OTHER_LAYERS))}
DENSE_SLOTS = len(LAYERS)
FIRST_EXPERT_SLOT = len(DURATION_SLOT)
"""Times of a block's experts: a slot for each draw of the routing and each rank (or group of ranks)."""
TOKEN_IDS_SLOT, SAMPLED_IDS_SLOT, ALL_REDUCE_SLOT, FIRST_KV_SLOT = range(4)


@dataclass(frozen=True, slots=True)
class KvTarget:
    """A decode instance that receives KV, or a pipeline stage of it: its number, the part of the ticket that counts
    its transfer, the position of its first NPU in the trace's NPU list, who sends what, and KV of which blocks."""

    instance: InstanceSpec
    part: int
    first_position: int
    transfers: tuple[HeadTransfer, ...]
    first_slot: int
    blocks: range


@dataclass(frozen=True, slots=True)
class ActivationTransfer:
    """What a pipeline stage hands on: every rank its share to the same rank of the next stage.

    ``npus`` are those of the next stage, from ``first_position`` on in the trace's NPU list; ``part`` of the ticket
    counts the transfer, and ``slot`` has the size of a share.
    """

    npus: tuple[int, ...]
    stage: int
    """Number of the next stage."""
    first_position: int
    part: int
    slot: int


@dataclass(frozen=True, slots=True)
class MemoryAccess:
    """Bytes that each NPU of the instance loads from a memory elsewhere, or stores there."""

    place: Place
    memory: int
    """Position among the engine's memories."""
    slot: int


class KvMoveKind(NamedTuple):
    """KV of whole tokens on its way: ``kv_evict`` and ``kv_load`` before the first row, ``kv_store`` after the last."""

    name: str
    place: Place


@dataclass(frozen=True, slots=True)
class KvMove:
    """One row of KV on its way."""

    kind: KvMoveKind
    access: MemoryAccess


class AttentionSplit(NamedTuple):
    """Where the attention of an iteration runs: that of prompts on the NPU, that of single tokens in memory, or both.

    Without offloading all of it is on the NPU.
    """

    on_npu: bool
    in_memory: bool


ALL_ON_NPU = AttentionSplit(on_npu=True, in_memory=False)


@dataclass(frozen=True, slots=True)
class RowShape:
    """One row: a layer of one block (or of none), and what goes in and out around it.

    ``stage`` counts what is prefetched together: the embedding, each block, and what follows the blocks.
    """

    name: str
    layer: str
    stage: int = 0
    place: Place = NPU
    """Where the layer's weights are."""
    weights: MemoryAccess | None = None
    """The load of the layer's weights; None: they are on the NPU, or it has none."""
    kv_read: MemoryAccess | None = None
    """Where attention reads the KV of its context from; None: it is on the NPU."""
    kv_write: MemoryAccess | None = None
    """Where the new tokens' KV goes after rope."""
    loads_token_ids: bool = False
    stores_sampled_ids: bool = False
    all_reduce: bool = False
    kv_ready: bool = False
    to_pim: MemoryAccess | None = None
    """Queries and new KV of the tokens whose attention runs in memory, which leave after rope."""
    from_pim: MemoryAccess | None = None
    """Their results, which come back after attention has run in the instance's channels."""
    on_npu: bool = True
    """Whether the NPU computes the row; attention that runs in memory alone is not."""
    block: int = -1
    """Number of the transformer block; -1: the row is outside the blocks."""
    draw: int = 0
    """Which draw of the expert routing the block takes."""
    dispatches: bool = False
    """Tokens leave for the ranks of their experts after this row."""
    combines: bool = False
    """Results come back from the ranks of the experts after this row, and every rank gets those of all tokens."""


@dataclass(frozen=True, eq=False)
class TraceShape:
    """Rows in execution order, the NPUs that take part, and the KV targets.

    ``blocks`` are the numbers of the transformer blocks in it: all, or those of a layer group or of a pipeline stage,
    whose NPUs are then those of ``instance``. ``moves`` are the KV that goes to or comes from elsewhere;
    ``fixed_sizes`` has the sizes that no batch changes (weights), and 0 else.
    """

    instance: InstanceSpec
    blocks: range
    rows: tuple[RowShape, ...]
    targets: tuple[KvTarget, ...]
    moves: tuple[KvMove, ...]
    fixed_sizes: Int64Array
    draws: int = 1
    halves: tuple[TraceShape, ...] = ()
    """Two sub-batches whose rows take turns on the NPUs; everything here is then theirs, one after the other."""
    stage: PipelineStage | None = None
    """The pipeline stage; None: the instance has one only."""
    hands_on: ActivationTransfer | None = None
    """What goes to the next pipeline stage; None: there is none."""
    activation_slot: int | None = None
    """Size of a rank's share of what comes from the stage before or goes to the next."""

    @cached_property
    def npus(self) -> tuple[int, ...]:
        """NPUs of the instance, then those of each target, then those of the next pipeline stage."""
        own_and_targets = self.instance.npus + tuple(
            npu for target in self.targets for npu in target.instance.npus
        )
        return own_and_targets + (() if self.hands_on is None else self.hands_on.npus)

    @cached_property
    def npus_of_part(self) -> dict[int, tuple[int, ...]]:
        """NPUs whose nodes each part of the ticket counts: 0 the instance's own, then whoever receives."""
        parts = {0: self.instance.npus}
        for target in self.targets:
            parts[target.part] = parts.get(target.part, ()) + target.instance.npus
        if self.hands_on is not None:
            parts[self.hands_on.part] = self.hands_on.npus
        return parts

    @property
    def is_first_stage(self) -> bool:
        """Whether a batch begins with it, as far as pipeline stages go."""
        return self.stage is None or self.stage.is_first

    @property
    def gathers_activations(self) -> bool:
        """Whether it begins with ranks that exchange the shares of the hidden states that each has got."""
        return not self.is_first_stage and self.instance.tp_size > 1

    @property
    def size_slots(self) -> int:
        """Length of the trace's ``sizes``."""
        return len(self.fixed_sizes)

    def kv_sent_bytes(self, row: RowShape, sizes: Int64Array) -> int:
        """Bytes of a block's KV that go to the targets."""
        return sum(
            int(sizes[target.first_slot : target.first_slot + len(target.transfers)].sum())
            for target in self.targets
            if row.block in target.blocks
        )

    @cached_property
    def streams_kv(self) -> tuple[MemoryAccess, MemoryAccess] | None:
        """A read and a write of KV that lives elsewhere, whose slots all of them share; None: there is none."""
        reads = [row.kv_read for row in self.rows if row.kv_read is not None]
        writes = [row.kv_write for row in self.rows if row.kv_write is not None]
        return (reads[0], writes[0]) if reads else None

    @cached_property
    def pim_rows(self) -> tuple[MemoryAccess, MemoryAccess] | None:
        """What goes to memory for attention and what comes back, whose slots all blocks share; None: nothing does."""
        there = [row.to_pim for row in self.rows if row.to_pim is not None]
        back = [row.from_pim for row in self.rows if row.from_pim is not None]
        return (there[0], back[0]) if there else None

    @cached_property
    def pim_channels(self) -> tuple[tuple[int, ...], ...]:
        """Leading channels that run the attention of each of the instance's ranks; empty if none does."""
        instance = self.instance
        if instance.pim is None or self.pim_rows is None:
            return ()
        return tuple(instance.pim.leaders_of_rank(rank, instance.tp_size) for rank in range(instance.tp_size))

    @cached_property
    def first_pim_slot(self) -> int:
        """Time of a rank's first channel; those of its other channels follow, and are the last durations."""
        if not self.instance.model.is_moe:
            return DURATION_SLOT[GATE]
        return FIRST_EXPERT_SLOT + self.draws * self.instance.expert_groups

    @cached_property
    def duration_slots(self) -> int:
        """Length of the trace's ``durations_ns``."""
        if self.halves:
            return sum(half.duration_slots for half in self.halves)
        return self.first_pim_slot + (len(self.pim_channels[0]) if self.pim_channels else 0)

    @cached_property
    def all_gather_slot(self) -> int:
        """Size of a rank's share of the tokens, under expert parallelism: the slot after those of KV transfers."""
        return FIRST_KV_SLOT + sum(len(target.transfers) for target in self.targets)

    @cached_property
    def all_to_all_slots(self) -> slice:
        """Sizes of the all-to-alls, one for each draw, under expert parallelism."""
        return slice(self.all_to_all_slot(0), self.all_to_all_slot(self.draws))

    def all_to_all_slot(self, draw: int) -> int:
        """Size of an all-to-all of the blocks that take ``draw``."""
        return self.all_gather_slot + 1 + draw

    def duration_slot(self, row: RowShape, rank: int = 0) -> int:
        """Where the time of a row on one of the instance's ranks is."""
        if row.layer != EXPERTS:
            return DURATION_SLOT[row.layer]
        groups = self.instance.expert_groups
        return FIRST_EXPERT_SLOT + row.draw * groups + rank % groups

    @cached_property
    def rows_of_slot(self) -> Int64Array:
        """How many rows that the first rank computes take each duration slot."""
        slots = [self.duration_slot(row) for row in self.rows if row.on_npu]
        return np.bincount(np.array(slots, dtype=np.int64))

    @cached_property
    def blocks_of_draw(self) -> Int64Array:
        """How many blocks with experts take each draw of the expert routing."""
        blocks = [block for block in self.blocks if self.instance.model.has_experts(block)]
        return np.bincount(np.array(blocks, dtype=np.int64) % self.draws, minlength=self.draws)

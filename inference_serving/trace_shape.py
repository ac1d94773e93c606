"""The structure of one iteration's trace, without its numbers: built once per instance, layer group and KV targets.

Numbers are kept apart so that they can change every iteration while the structure, and the graph that the
engine compiled from it, stay. A row names *slots*: positions in the trace's ``durations_ns`` and ``sizes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_transfer import HeadTransfer, head_transfers
from inference_serving.layer_group import WHOLE_MODEL
from inference_serving.pipeline.stage import ModelPart, PipelineStage
from inference_serving.placement import CPU, NPU, Place, row_layers
from inference_serving.request import Int64Array
from llm_profile.layers import EXPERTS, GATE, LAYERS, OTHER_LAYERS, stored_elements

DURATION_SLOT = {layer: slot for slot, layer in enumerate((*LAYERS, *OTHER_LAYERS))}
DENSE_SLOTS = len(LAYERS)
FIRST_EXPERT_SLOT = len(DURATION_SLOT)
"""Times of a block's experts: a slot for each draw of the routing and each rank (or group of ranks)."""
TOKEN_IDS_SLOT, SAMPLED_IDS_SLOT, ALL_REDUCE_SLOT, FIRST_KV_SLOT = range(4)
_ALL_REDUCE_AFTER = frozenset(("o_proj", "down_proj", EXPERTS))
_KV_READY_AFTER = "rope"


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


def build_shape(
    instance: InstanceSpec,
    targets: tuple[InstanceSpec, ...] = (),
    part: ModelPart = WHOLE_MODEL,
    moves: tuple[KvMoveKind, ...] = (),
    draws: int = 1,
    attention: AttentionSplit = ALL_ON_NPU,
) -> TraceShape:
    """Lay out the rows of one iteration of ``instance`` that sends KV to ``targets`` and makes ``moves``.

    The rows of a layer group or pipeline stage are a slice of the whole iteration's, and keep their names. Blocks
    take turns with the ``draws`` draws of the expert routing. ``attention`` says where an offloaded instance runs it.
    """
    stage = part if isinstance(part, PipelineStage) else None
    whole, instance = instance, instance if stage is None else instance.of_stage(stage)
    blocks = part.blocks(instance.model.num_hidden_layers)
    start = None if part.is_first else _row_of_block(instance, blocks.start)
    stop = None if part.is_last else _row_of_block(instance, blocks.stop)
    placed = _kv_targets(instance, targets, blocks)
    sent = sum(len(target.transfers) for target in placed)
    slots = _Slots(instance, FIRST_KV_SLOT + sent + (draws + 1 if instance.ep_size > 1 else 0))
    rows = _rows(instance, slots, draws, attention, sends_kv=bool(targets))[start:stop]
    moved = tuple(KvMove(kind, slots.access(kind.place, slots.new())) for kind in moves)
    activation_slot = None if stage is None else slots.new()
    hands_on = None
    if stage is not None and activation_slot is not None and not stage.is_last:
        hands_on = _to_next_stage(whole, stage, placed, len(targets), activation_slot)
    fixed = slots.fixed_sizes()
    return TraceShape(
        instance,
        blocks,
        rows,
        placed,
        moved,
        fixed,
        draws,
        stage=stage,
        hands_on=hands_on,
        activation_slot=activation_slot,
    )


def _to_next_stage(
    instance: InstanceSpec, stage: PipelineStage, placed: Sequence[KvTarget], targets: int, slot: int
) -> ActivationTransfer:
    """Where the activations of a stage go; the last part of the ticket counts them."""
    following = instance.stages()[stage.part + 1]
    position = instance.tp_size + sum(target.instance.tp_size for target in placed)
    return ActivationTransfer(instance.of_stage(following).npus, following.part, position, targets + 1, slot)


def _row_of_block(instance: InstanceSpec, block: int) -> int:
    """Row at which a block begins."""
    return next(row for row, (of, _) in enumerate(row_layers(instance.model)) if of == block)


class _Slots:
    """Hands out size slots: one for the weights of each layer, one each for KV read and written, one a move."""

    def __init__(self, instance: InstanceSpec, first: int) -> None:
        self._instance = instance
        self._sizes = [0] * first
        self._slot_of: dict[str, int] = {}

    def new(self, size_bytes: int = 0) -> int:
        self._sizes.append(size_bytes)
        return len(self._sizes) - 1

    def access(self, place: Place, slot: int) -> MemoryAccess:
        return MemoryAccess(place, self._instance.placement.memory_of(place), slot)

    def weights(self, layer: str, place: Place) -> MemoryAccess | None:
        """The load of a layer's weights, None if they need none."""
        instance = self._instance
        if not instance.placement.loads(place):
            return None
        elements = stored_elements(instance.model, layer, instance.tp_size, instance.ep_size)
        if not elements:
            return None
        if layer not in self._slot_of:
            self._slot_of[layer] = self.new(elements * instance.precision.weight_bits // 8)
        return self.access(place, self._slot_of[layer])

    def kv(self, what: str, place: Place) -> MemoryAccess | None:
        """A read or write (``what``) of KV that lives at ``place``, None if that is the NPU."""
        if place == NPU:
            return None
        if what not in self._slot_of:
            self._slot_of[what] = self.new()
        return self.access(place, self._slot_of[what])

    def fixed_sizes(self) -> Int64Array:
        return np.array(self._sizes, dtype=np.int64)


def _rows(
    instance: InstanceSpec, slots: _Slots, draws: int, attention: AttentionSplit, *, sends_kv: bool
) -> tuple[RowShape, ...]:
    blocks, split, spread = instance.model.num_hidden_layers, instance.tp_size > 1, instance.ep_size > 1
    rows, number = [], 0
    positions = row_layers(instance.model)
    for (block, layer), place in zip(positions, instance.placement.weights, strict=True):
        kv = NPU if block is None or not attention.on_npu else instance.placement.blocks[block].kv
        offloaded = attention.in_memory and layer == "attn"
        name, lines = _name(instance, layer, number, attention)
        number += lines
        rows.append(
            RowShape(
                name,
                layer,
                stage=block + 1 if block is not None else (0 if layer == "embedding" else blocks + 1),
                place=place,
                weights=slots.weights(layer, place),
                kv_read=slots.kv("kv_read", kv) if layer == "attn" else None,
                kv_write=slots.kv("kv_write", kv) if layer == _KV_READY_AFTER else None,
                loads_token_ids=layer == "embedding",
                stores_sampled_ids=layer == "lm_head",
                all_reduce=split and layer in _ALL_REDUCE_AFTER and not (spread and layer == EXPERTS),
                kv_ready=sends_kv and layer == _KV_READY_AFTER,
                to_pim=slots.kv("to_pim", CPU) if attention.in_memory and layer == _KV_READY_AFTER else None,
                from_pim=slots.kv("from_pim", CPU) if offloaded else None,
                on_npu=attention.on_npu or not offloaded,
                block=-1 if block is None else block,
                draw=block % draws if block is not None and layer in (GATE, EXPERTS) else 0,
                dispatches=spread and layer == GATE,
                combines=spread and layer == EXPERTS,
            )
        )
    return tuple(rows)


def _name(instance: InstanceSpec, layer: str, number: int, attention: AttentionSplit) -> tuple[str, int]:
    """Name of a row whose first line in the text trace has this number, and how many lines it has there."""
    if layer == EXPERTS:  # a line opens the section of each group of experts, one closes them all
        return f"expert_{number + 1}", 2 * instance.expert_groups + 1
    if layer == "attn" and attention.in_memory and instance.pim is not None:  # the same for each channel
        channels = len(instance.pim.channels_of_rank(0, instance.tp_size))
        return f"{layer}_{number}", attention.on_npu + 2 * channels + 1
    return f"{layer}_{number}", 1


def _kv_targets(
    instance: InstanceSpec, targets: tuple[InstanceSpec, ...], blocks: range
) -> tuple[KvTarget, ...]:
    """Who gets the KV of these blocks: of a target with pipeline stages, those stages that have any of them."""
    placed: list[KvTarget] = []
    position, slot = instance.tp_size, FIRST_KV_SLOT
    for part, target in enumerate(targets, start=1):
        transfers = tuple(head_transfers(instance.model, instance.tp_size, target.tp_size))
        for receiver, held in _holders(target):
            wanted = range(max(blocks.start, held.start), min(blocks.stop, held.stop))
            if not wanted:
                continue
            placed.append(KvTarget(receiver, part, position, transfers, slot, wanted))
            position += receiver.tp_size
            slot += len(transfers)
    return tuple(placed)


def _holders(instance: InstanceSpec) -> list[tuple[InstanceSpec, range]]:
    """The stages of an instance, or itself, with the blocks whose KV each has."""
    layers = instance.model.num_hidden_layers
    stages = [(instance.of_stage(stage), stage.blocks(layers)) for stage in instance.stages()]
    return stages or [(instance, range(layers))]

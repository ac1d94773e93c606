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
from inference_serving.kv_transfer import HeadTransfer, head_transfers
from inference_serving.layer_group import WHOLE_MODEL, LayerGroup
from inference_serving.placement import EXPERTS, NPU, Place, block_rows, row_layers
from inference_serving.request import Int64Array
from llm_profile.layers import GATE, LAYERS, layer_shape

DURATION_SLOT = {layer: slot for slot, layer in enumerate((*LAYERS, GATE))}
FIRST_EXPERT_SLOT = len(DURATION_SLOT)
"""Times of a block's experts: a slot for each draw of the routing and each rank (or group of ranks)."""
TOKEN_IDS_SLOT, SAMPLED_IDS_SLOT, ALL_REDUCE_SLOT, FIRST_KV_SLOT = range(4)
_ALL_REDUCE_AFTER = frozenset(("o_proj", "down_proj", EXPERTS))
_KV_READY_AFTER = "rope"


@dataclass(frozen=True, slots=True)
class KvTarget:
    """A decode instance that receives KV: its number, the part of the ticket that counts its transfer,
    the position of its first NPU in the trace's NPU list, and who sends what."""

    instance: InstanceSpec
    part: int
    first_position: int
    transfers: tuple[HeadTransfer, ...]
    first_slot: int


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
    draw: int = 0
    """Which draw of the expert routing the block takes."""
    dispatches: bool = False
    """Tokens leave for the ranks of their experts after this row."""
    combines: bool = False
    """Results come back from the ranks of the experts after this row, and every rank gets those of all tokens."""


@dataclass(frozen=True, eq=False)
class TraceShape:
    """Rows in execution order, the NPUs that take part, and the KV targets.

    ``blocks`` are the numbers of the transformer blocks in it: all, or those of a layer group. ``moves`` are the
    KV that goes to or comes from elsewhere; ``fixed_sizes`` has the sizes that no batch changes (weights), and 0 else.
    """

    instance: InstanceSpec
    blocks: range
    rows: tuple[RowShape, ...]
    targets: tuple[KvTarget, ...]
    moves: tuple[KvMove, ...]
    fixed_sizes: Int64Array
    draws: int = 1

    @cached_property
    def npus(self) -> tuple[int, ...]:
        """NPUs of the instance, then those of each target."""
        return self.instance.npus + tuple(npu for target in self.targets for npu in target.instance.npus)

    @property
    def size_slots(self) -> int:
        """Length of the trace's ``sizes``."""
        return len(self.fixed_sizes)

    @cached_property
    def kv_sent_slots(self) -> slice:
        """Slots of what goes to the targets."""
        return slice(FIRST_KV_SLOT, self.all_gather_slot)

    @cached_property
    def streams_kv(self) -> tuple[MemoryAccess, MemoryAccess] | None:
        """A read and a write of KV that lives elsewhere, whose slots all of them share; None: there is none."""
        reads = [row.kv_read for row in self.rows if row.kv_read is not None]
        writes = [row.kv_write for row in self.rows if row.kv_write is not None]
        return (reads[0], writes[0]) if reads else None

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
        """How many rows take each duration slot, on the first rank."""
        return np.bincount([self.duration_slot(row) for row in self.rows])

    @cached_property
    def blocks_of_draw(self) -> Int64Array:
        """How many blocks take each draw of the expert routing."""
        return np.bincount(np.array(self.blocks) % self.draws, minlength=self.draws)


def build_shape(
    instance: InstanceSpec,
    targets: tuple[InstanceSpec, ...] = (),
    layer_group: LayerGroup = WHOLE_MODEL,
    moves: tuple[KvMoveKind, ...] = (),
    draws: int = 1,
) -> TraceShape:
    """Lay out the rows of one iteration of ``instance`` that sends KV to ``targets`` and makes ``moves``.

    The rows of a layer group are a slice of the whole iteration's, and keep their names. Blocks take turns with the
    ``draws`` draws of the expert routing.
    """
    blocks = layer_group.blocks(instance.model.num_hidden_layers)
    layers = block_rows(instance.model)
    start = None if layer_group.is_first else _row_of_block(blocks.start, layers)
    stop = None if layer_group.is_last else _row_of_block(blocks.stop, layers)
    placed = _kv_targets(instance, targets)
    sent = sum(len(target.transfers) for target in placed)
    slots = _Slots(instance, FIRST_KV_SLOT + sent + (draws + 1 if instance.ep_size > 1 else 0))
    rows = _rows(instance, slots, draws, sends_kv=bool(targets))[start:stop]
    moved = tuple(KvMove(kind, slots.access(kind.place, slots.new())) for kind in moves)
    return TraceShape(instance, blocks, rows, placed, moved, slots.fixed_sizes(), draws)


def _row_of_block(block: int, layers: tuple[str, ...]) -> int:
    """Row at which a block begins; the embedding is before the first."""
    return 1 + block * len(layers)


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
        elements = layer_shape(instance.model, layer, instance.tp_size).weight_elements
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


def _rows(instance: InstanceSpec, slots: _Slots, draws: int, *, sends_kv: bool) -> tuple[RowShape, ...]:
    blocks, split, spread = instance.model.num_hidden_layers, instance.tp_size > 1, instance.ep_size > 1
    rows, number = [], 0
    positions = row_layers(blocks, block_rows(instance.model))
    for (block, layer), place in zip(positions, instance.placement.weights, strict=True):
        kv = NPU if block is None else instance.placement.blocks[block].kv
        name, lines = _name(instance, layer, number)
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
                draw=block % draws if block is not None and layer in (GATE, EXPERTS) else 0,
                dispatches=spread and layer == GATE,
                combines=spread and layer == EXPERTS,
            )
        )
    return tuple(rows)


def _name(instance: InstanceSpec, layer: str, number: int) -> tuple[str, int]:
    """Name of a row whose first line in the text trace has this number, and how many lines it has there."""
    if layer == EXPERTS:  # a line opens the section of each group of experts, one closes them all
        return f"expert_{number + 1}", 2 * instance.expert_groups + 1
    return f"{layer}_{number}", 1


def _kv_targets(instance: InstanceSpec, targets: tuple[InstanceSpec, ...]) -> tuple[KvTarget, ...]:
    placed: list[KvTarget] = []
    position, slot = instance.tp_size, FIRST_KV_SLOT
    for part, target in enumerate(targets, start=1):
        transfers = tuple(head_transfers(instance.model, instance.tp_size, target.tp_size))
        placed.append(KvTarget(target, part, position, transfers, slot))
        position += target.tp_size
        slot += len(transfers)
    return tuple(placed)

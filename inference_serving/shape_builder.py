"""Lays out the rows of an iteration: which layers, where their weights and KV are, and what moves around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_transfer import head_transfers
from inference_serving.layer_group import WHOLE_MODEL
from inference_serving.pipeline.stage import ModelPart, PipelineStage
from inference_serving.placement import CPU, NPU, Place, row_layers
from inference_serving.request import Int64Array
from inference_serving.trace_shape import (
    ALL_ON_NPU,
    FIRST_KV_SLOT,
    ActivationTransfer,
    AttentionSplit,
    KvMove,
    KvMoveKind,
    KvTarget,
    MemoryAccess,
    RowShape,
    TraceShape,
)
from llm_profile.layers import EXPERTS, GATE, stored_elements

_ALL_REDUCE_AFTER = frozenset(("o_proj", "down_proj", EXPERTS))
_KV_READY_AFTER = "rope"


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

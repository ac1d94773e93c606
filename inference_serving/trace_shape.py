"""The structure of one iteration's trace, without its numbers: built once per instance, layer group and KV targets.

Numbers are kept apart so that they can change every iteration while the structure, and the graph that the
engine compiled from it, stay. A row names *slots*: positions in the trace's ``durations_ns`` and ``sizes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_transfer import HeadTransfer, head_transfers
from inference_serving.layer_group import WHOLE_MODEL, LayerGroup
from inference_serving.request import Int64Array
from llm_profile.layers import GATE, LAYERS, block_layers

DURATION_SLOT = {layer: slot for slot, layer in enumerate((*LAYERS, GATE))}
EXPERTS = "experts"
"""The experts of a block: one row, a duration slot for each draw of the routing and each rank (or group of ranks)."""
FIRST_EXPERT_SLOT = len(DURATION_SLOT)
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
class RowShape:
    """One row: a layer of one block (or of none), and what goes in and out around it."""

    name: str
    layer: str
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

    ``blocks`` are the numbers of the transformer blocks in it: all, or those of a layer group.
    """

    instance: InstanceSpec
    blocks: range
    rows: tuple[RowShape, ...]
    targets: tuple[KvTarget, ...]
    draws: int = 1

    @cached_property
    def npus(self) -> tuple[int, ...]:
        """NPUs of the instance, then those of each target."""
        return self.instance.npus + tuple(npu for target in self.targets for npu in target.instance.npus)

    @cached_property
    def size_slots(self) -> int:
        """Length of the trace's ``sizes``."""
        return self.all_gather_slot + (self.draws + 1 if self.instance.ep_size > 1 else 0)

    @cached_property
    def kv_slots(self) -> slice:
        """Sizes of KV transfers."""
        return slice(FIRST_KV_SLOT, self.all_gather_slot)

    @cached_property
    def all_gather_slot(self) -> int:
        """Size of a rank's share of the tokens, under expert parallelism: the slot after those of KV transfers."""
        return FIRST_KV_SLOT + sum(len(target.transfers) for target in self.targets)

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
    def blocks_of_draw(self) -> Int64Array:
        """How many blocks take each draw of the expert routing."""
        return np.bincount(np.array(self.blocks) % self.draws, minlength=self.draws)


def build_shape(
    instance: InstanceSpec,
    targets: tuple[InstanceSpec, ...] = (),
    layer_group: LayerGroup = WHOLE_MODEL,
    draws: int = 1,
) -> TraceShape:
    """Lay out the rows of one iteration of ``instance`` that sends KV to ``targets``.

    The rows of a layer group are a slice of the whole iteration's, and keep their names. Blocks take turns with the
    ``draws`` draws of the expert routing.
    """
    blocks = layer_group.blocks(instance.model.num_hidden_layers)
    layers = _layers(instance)
    start = None if layer_group.is_first else _row_of_block(blocks.start, layers)
    stop = None if layer_group.is_last else _row_of_block(blocks.stop, layers)
    rows = _rows(instance, layers, draws, sends_kv=bool(targets))[start:stop]
    return TraceShape(instance, blocks, rows, _kv_targets(instance, targets), draws)


def _layers(instance: InstanceSpec) -> tuple[str, ...]:
    """Rows of one block."""
    layers = block_layers(instance.model)
    return (*layers, EXPERTS) if instance.model.is_moe else layers


def _row_of_block(block: int, layers: tuple[str, ...]) -> int:
    """Row at which a block begins; the embedding is before the first."""
    return 1 + block * len(layers)


def _rows(
    instance: InstanceSpec, layers: tuple[str, ...], draws: int, *, sends_kv: bool
) -> tuple[RowShape, ...]:
    rows = [RowShape("embedding_0", "embedding", loads_token_ids=True)]
    number = 1  # of the line in the text trace
    for block in range(instance.model.num_hidden_layers):
        for layer in layers:
            rows.append(_block_row(instance, layer, number, block % draws, sends_kv=sends_kv))
            number += 1 if layer != EXPERTS else 2 * instance.expert_groups + 1
    rows.append(RowShape(f"final_layernorm_{number}", "final_layernorm"))
    rows.append(RowShape(f"lm_head_{number + 1}", "lm_head", stores_sampled_ids=True))
    return tuple(rows)


def _block_row(instance: InstanceSpec, layer: str, number: int, draw: int, *, sends_kv: bool) -> RowShape:
    spread = instance.ep_size > 1
    # a line opens the section of the experts
    name = f"{layer}_{number}" if layer != EXPERTS else f"expert_{number + 1}"
    return RowShape(
        name,
        layer,
        all_reduce=instance.tp_size > 1 and layer in _ALL_REDUCE_AFTER and not (spread and layer == EXPERTS),
        kv_ready=sends_kv and layer == _KV_READY_AFTER,
        draw=draw if layer in (GATE, EXPERTS) else 0,
        dispatches=spread and layer == GATE,
        combines=spread and layer == EXPERTS,
    )


def _kv_targets(instance: InstanceSpec, targets: tuple[InstanceSpec, ...]) -> tuple[KvTarget, ...]:
    placed: list[KvTarget] = []
    position, slot = instance.tp_size, FIRST_KV_SLOT
    for part, target in enumerate(targets, start=1):
        transfers = tuple(head_transfers(instance.model, instance.tp_size, target.tp_size))
        placed.append(KvTarget(target, part, position, transfers, slot))
        position += target.tp_size
        slot += len(transfers)
    return tuple(placed)

"""The structure of one iteration's trace, without its numbers: built once per instance, layer group and KV targets.

Numbers are kept apart so that they can change every iteration while the structure, and the graph that the
engine compiled from it, stay. A row names *slots*: positions in the trace's ``durations_ns`` and ``sizes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_transfer import HeadTransfer, head_transfers
from inference_serving.layer_group import WHOLE_MODEL, LayerGroup
from llm_profile.layers import BLOCK_LAYERS, LAYERS

DURATION_SLOT = {layer: slot for slot, layer in enumerate(LAYERS)}
TOKEN_IDS_SLOT, SAMPLED_IDS_SLOT, ALL_REDUCE_SLOT, FIRST_KV_SLOT = range(4)
_ALL_REDUCE_AFTER = frozenset(("o_proj", "down_proj"))
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


@dataclass(frozen=True, eq=False)
class TraceShape:
    """Rows in execution order, the NPUs that take part, and the KV targets.

    ``blocks`` are the numbers of the transformer blocks in it: all, or those of a layer group.
    """

    instance: InstanceSpec
    blocks: range
    rows: tuple[RowShape, ...]
    targets: tuple[KvTarget, ...]

    @cached_property
    def npus(self) -> tuple[int, ...]:
        """NPUs of the instance, then those of each target."""
        return self.instance.npus + tuple(npu for target in self.targets for npu in target.instance.npus)

    @cached_property
    def size_slots(self) -> int:
        """Length of the trace's ``sizes``."""
        return FIRST_KV_SLOT + sum(len(target.transfers) for target in self.targets)


def build_shape(
    instance: InstanceSpec, targets: tuple[InstanceSpec, ...] = (), layer_group: LayerGroup = WHOLE_MODEL
) -> TraceShape:
    """Lay out the rows of one iteration of ``instance`` that sends KV to ``targets``.

    The rows of a layer group are a slice of the whole iteration's, and keep their names.
    """
    blocks = layer_group.blocks(instance.model.num_hidden_layers)
    start = None if layer_group.is_first else _row_of_block(blocks.start)
    stop = None if layer_group.is_last else _row_of_block(blocks.stop)
    rows = _rows(instance, sends_kv=bool(targets))[start:stop]
    return TraceShape(instance, blocks, rows, _kv_targets(instance, targets))


def _row_of_block(block: int) -> int:
    """Row at which a block begins; the embedding is before the first."""
    return 1 + block * len(BLOCK_LAYERS)


def _rows(instance: InstanceSpec, *, sends_kv: bool) -> tuple[RowShape, ...]:
    split = instance.tp_size > 1
    rows = [RowShape("embedding_0", "embedding", loads_token_ids=True)]
    for _ in range(instance.model.num_hidden_layers):
        for layer in BLOCK_LAYERS:
            rows.append(
                RowShape(
                    f"{layer}_{len(rows)}",
                    layer,
                    all_reduce=split and layer in _ALL_REDUCE_AFTER,
                    kv_ready=sends_kv and layer == _KV_READY_AFTER,
                )
            )
    rows.append(RowShape(f"final_layernorm_{len(rows)}", "final_layernorm"))
    rows.append(RowShape(f"lm_head_{len(rows)}", "lm_head", stores_sampled_ids=True))
    return tuple(rows)


def _kv_targets(instance: InstanceSpec, targets: tuple[InstanceSpec, ...]) -> tuple[KvTarget, ...]:
    placed: list[KvTarget] = []
    position, slot = instance.tp_size, FIRST_KV_SLOT
    for part, target in enumerate(targets, start=1):
        transfers = tuple(head_transfers(instance.model, instance.tp_size, target.tp_size))
        placed.append(KvTarget(target, part, position, transfers, slot))
        position += target.tp_size
        slot += len(transfers)
    return tuple(placed)

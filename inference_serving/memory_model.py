"""How much memory weights take, and how many KV blocks the rest holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inference_serving.layer_group import WHOLE_MODEL
from inference_serving.pipeline.stage import ModelPart
from inference_serving.placement import NPU, Place, Placement, row_layers
from llm_profile.layers import kv_bytes_per_token, parameters_per_rank, stored_elements
from llm_profile.model_config import ModelConfig

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of one NPU of an instance, in bytes, and the KV blocks that fit.

    ``kv_blocks = floor((mem_size * utilization - weights) / block)``: what is left for KV after the weights,
    as in vLLM, but without its activation peak, which is not modelled. ``stated_kv_blocks``, such as a real
    engine's, takes the place of that number, whether or not so many would fit. ``weight_bytes`` includes the
    buffers into which weights from elsewhere are loaded, ``kv_bytes_per_block`` only the layers whose KV is on the
    NPU; ``remote_kv_blocks`` are what the other places of KV hold.
    """

    usable_bytes: int
    weight_bytes: int
    kv_bytes_per_block: int
    stated_kv_blocks: int | None = None
    remote_kv_blocks: int | None = None

    @property
    def kv_blocks(self) -> int:
        """KV blocks: as stated, else those that fit beside the weights (0 or less if the weights do not fit)."""
        if self.stated_kv_blocks is not None:
            return self.stated_kv_blocks
        left = self.usable_bytes - self.weight_bytes
        if not self.kv_bytes_per_block:
            return (self.remote_kv_blocks or 0) if left >= 0 else 0
        here = left // self.kv_bytes_per_block
        return here if self.remote_kv_blocks is None else min(here, self.remote_kv_blocks)


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of a weight (activations have the same) and of a KV element."""

    weight_bits: int = 16
    kv_bits: int = 16


def activation_bytes(model: ModelConfig, precision: Precision, tokens: int) -> int:
    """Bytes on each NPU that ``tokens`` tokens keep alive between two blocks, while a chunk is paused there.

    vLLM's decoder layers hand on two tensors of shape ``[tokens, hidden_size]``: the hidden states (the MLP's
    output) and the residual stream. Tensor parallelism replicates both on every rank. Positions and attention
    metadata, some bytes a token, follow from the schedule again and are not counted.
    """
    return 2 * tokens * model.hidden_size * precision.weight_bits // 8


def plan_memory(
    model: ModelConfig,
    tp_size: int,
    precision: Precision,
    block_size: int,
    mem_size_gb: float,
    utilization: float,
    *,
    placement: Placement | None = None,
    ep_size: int = 1,
    part: ModelPart = WHOLE_MODEL,
) -> MemoryPlan:
    """Split one NPU's memory between weights and KV blocks of ``block_size`` tokens.

    ``placement`` None places all on the NPU. Whole experts are spread over ``ep_size`` NPUs; 1: they are split over
    those of the stage. The NPU holds ``part`` of the model.
    """
    layer_bytes = block_size * kv_bytes_per_token(model, tp_size, precision.kv_bits)
    blocks = part.blocks(model.num_hidden_layers)
    kv_layers = len(blocks)
    weights = _part_parameters(model, tp_size, ep_size, part) * precision.weight_bits // 8
    if placement is not None and not placement.is_plain:
        kv_layers = sum(placement.blocks[block].kv == NPU for block in blocks)
    if placement is not None and not placement.keeps_weights:
        weights = weight_bytes_by_place(model, tp_size, precision, placement, ep_size, part).get(NPU, 0)
        weights += prefetch_buffer_bytes(model, tp_size, precision, placement, ep_size, part)
    return MemoryPlan(
        usable_bytes=int(mem_size_gb * GIB * utilization),
        weight_bytes=weights,
        kv_bytes_per_block=layer_bytes * kv_layers,
    )


def _part_parameters(model: ModelConfig, tp_size: int, ep_size: int, part: ModelPart) -> int:
    """Weights of one rank in a part of the model; tied embeddings count once, unless they are in two parts."""
    if part.is_first and part.is_last:
        return parameters_per_rank(model, tp_size, ep_size)
    return sum(
        stored_elements(model, layer, tp_size, ep_size)
        for _, layer, here in _rows_of_part(model, part)
        if here
    )


def _rows_of_part(model: ModelConfig, part: ModelPart) -> Iterator[tuple[int | None, str, bool]]:
    """(block, layer, whether the part has it) of every row of a model."""
    blocks = part.blocks(model.num_hidden_layers)
    for block, layer in row_layers(model):
        edge = part.is_first if layer == "embedding" else part.is_last
        yield block, layer, edge if block is None else block in blocks


def weight_bytes_by_place(
    model: ModelConfig,
    tp_size: int,
    precision: Precision,
    placement: Placement,
    ep_size: int = 1,
    part: ModelPart = WHOLE_MODEL,
) -> Mapping[Place, int]:
    """Bytes of one rank's weights in each place, its share of the experts among them; tied embeddings count once."""
    found: Counter[Place] = Counter()
    tied = model.tie_word_embeddings and part.is_first
    for (_, layer, here), place in zip(_rows_of_part(model, part), placement.weights, strict=True):
        if here and not (layer == "lm_head" and tied):
            found[place] += _row_bytes(model, layer, tp_size, precision, ep_size)
    return found


def prefetch_buffer_bytes(
    model: ModelConfig,
    tp_size: int,
    precision: Precision,
    placement: Placement,
    ep_size: int = 1,
    part: ModelPart = WHOLE_MODEL,
) -> int:
    """Bytes on each NPU for weights that are not kept there: the most that is loaded at once.

    While one block computes, it and the ``prefetch_blocks`` blocks after it are there (embedding and what follows
    the blocks count as a block each).
    """
    stages = [0] * (model.num_hidden_layers + 2)
    for row, ((block, layer, here), place) in enumerate(
        zip(_rows_of_part(model, part), placement.weights, strict=True)
    ):
        if here and place != NPU:
            stage = block + 1 if block is not None else (-1 if row else 0)
            stages[stage] += _row_bytes(model, layer, tp_size, precision, ep_size)
    window = placement.prefetch_blocks + 1
    return max(sum(stages[first : first + window]) for first in range(len(stages)))


def remote_kv_bytes_per_block(
    model: ModelConfig, tp_size: int, precision: Precision, block_size: int, placement: Placement
) -> Mapping[Place, int]:
    """Bytes of a KV block of all ``tp_size`` ranks in each place but the NPU."""
    layer_bytes = block_size * tp_size * kv_bytes_per_token(model, tp_size, precision.kv_bits)
    layers = Counter(block.kv for block in placement.blocks if block.kv != NPU)
    return {place: count * layer_bytes for place, count in layers.items()}


def _row_bytes(model: ModelConfig, row: str, tp_size: int, precision: Precision, ep_size: int) -> int:
    return stored_elements(model, row, tp_size, ep_size) * precision.weight_bits // 8

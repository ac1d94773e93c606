"""How much memory weights take, and how many KV blocks the rest holds."""

from __future__ import annotations

from dataclasses import dataclass

from llm_profile.layers import kv_bytes_per_token, weight_bytes
from llm_profile.model_config import ModelConfig

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of one NPU of an instance, in bytes, and the KV blocks that fit.

    ``kv_blocks = floor((mem_size * utilization - weights) / block)``: what is left for KV after the weights,
    as in vLLM, but without its activation peak, which is not modelled. ``stated_kv_blocks``, such as a real
    engine's, takes the place of that number, whether or not so many would fit.
    """

    usable_bytes: int
    weight_bytes: int
    kv_bytes_per_block: int
    stated_kv_blocks: int | None = None

    @property
    def kv_blocks(self) -> int:
        """KV blocks: as stated, else those that fit beside the weights (0 or less if the weights do not fit)."""
        if self.stated_kv_blocks is not None:
            return self.stated_kv_blocks
        return (self.usable_bytes - self.weight_bytes) // self.kv_bytes_per_block


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
    expert_ranks: int | None = None,
) -> MemoryPlan:
    """Split one NPU's memory between weights and KV blocks of ``block_size`` tokens.

    Experts are spread over ``expert_ranks`` NPUs, by default those of the instance.
    """
    block_bytes = block_size * model.num_hidden_layers * kv_bytes_per_token(model, tp_size, precision.kv_bits)
    return MemoryPlan(
        usable_bytes=int(mem_size_gb * GIB * utilization),
        weight_bytes=weight_bytes(model, tp_size, precision.weight_bits, expert_ranks),
        kv_bytes_per_block=block_bytes,
    )

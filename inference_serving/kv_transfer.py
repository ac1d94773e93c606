"""Which rank of a prefill instance sends which K and V heads to which rank of a decode instance."""

from __future__ import annotations

from dataclasses import dataclass

from llm_profile.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class HeadTransfer:
    """``heads`` K/V heads of every layer go from one prefill rank to one decode rank."""

    source_rank: int
    target_rank: int
    heads: int

    def bytes_for(self, tokens: int, model: ModelConfig, kv_bits: int) -> int:
        """Bytes of K and V of ``tokens`` tokens in one layer."""
        return self.heads * model.kv_head_elements * tokens * kv_bits // 8


def head_transfers(model: ModelConfig, source_tp: int, target_tp: int) -> list[HeadTransfer]:
    """Pair the ranks of two instances with any tensor-parallel sizes.

    A rank holds ``kv_heads / tp`` heads, or, with more ranks than heads, one head that several ranks share;
    then the copies of a head take turns as sources, and each target rank gets its own copy.
    """
    counts: dict[tuple[int, int], int] = {}
    for target_rank in range(target_tp):
        for head in _heads_of(target_rank, target_tp, model.num_key_value_heads):
            holders = [
                rank
                for rank in range(source_tp)
                if head in _heads_of(rank, source_tp, model.num_key_value_heads)
            ]
            pair = (holders[target_rank % len(holders)], target_rank)
            counts[pair] = counts.get(pair, 0) + 1
    return [HeadTransfer(source, target, heads) for (source, target), heads in sorted(counts.items())]


def _heads_of(rank: int, tp_size: int, kv_heads: int) -> range:
    if tp_size <= kv_heads:
        share = kv_heads // tp_size
        return range(rank * share, (rank + 1) * share)
    head = rank * kv_heads // tp_size
    return range(head, head + 1)

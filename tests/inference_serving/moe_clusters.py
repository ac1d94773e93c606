"""A tiny mixture-of-experts model, and latencies of its experts that are simple formulas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clusters import LinearLatency, instance
from numpy.typing import NDArray

from llm_profile.latency import Source

EXPERTS, PER_TOKEN, BLOCKS, HIDDEN, WIDTH = 8, 2, 3, 64, 32
MOE_MODEL = {
    "model_type": "mixtral",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": PER_TOKEN,
}
MOE_BLOCK = (
    "input_layernorm",
    "q_proj",
    "k_proj",
    "v_proj",
    "rope",
    "attn",
    "o_proj",
    "post_layernorm",
    "gate",
    "experts",
)


@dataclass
class MoeLatency(LinearLatency):
    """As LinearLatency; an expert with tokens costs 300 ns and 7 ns a token."""

    def moe_ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        return expert_ns(tokens_per_expert)

    def moe_source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        return Source.MEASURED


def expert_ns(tokens_per_expert: NDArray[np.int64]) -> int:
    """Time of the experts of one rank by hand."""
    return 300 * int(np.count_nonzero(tokens_per_expert)) + 7 * int(tokens_per_expert.sum())


def moe_instance(folder: Path, npus: int = 1, pd_type: str | None = None, **extra: Any) -> dict[str, Any]:
    """An instance section of the tiny mixture of experts."""
    model = folder / "tiny_moe.json"
    model.write_text(json.dumps(MOE_MODEL))
    return instance(folder, npus, pd_type, model_name=str(model), **extra)

"""Layers of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

A token's K and V are compressed to one vector of ``kv_lora_rank`` elements, which is cached with one rotated key of
``qk_rope_head_dim`` elements that all heads share. ``kv_b_proj`` makes the heads' keys and values of it. As vLLM runs
it, a prompt's are made and attended to as usual (multi-head attention); a decode multiplies the same matrix into its
query and its result instead, per head, so that attention reads the cached vectors as they are.
"""

from __future__ import annotations

from typing import Final

from llm_profile.layer_shape import LayerShape, gemm_shape, norm_shape
from llm_profile.model_config import ModelConfig

COMPRESSED_QUERY: Final = ("q_a_proj", "q_a_layernorm", "q_b_proj")
COMPRESSED_KV: Final = ("kv_a_proj", "kv_a_layernorm", "rope", "kv_b_proj")
MLA_LAYERS: Final = (*COMPRESSED_QUERY, "kv_a_proj", "kv_a_layernorm", "kv_b_proj")
"""Layers that only latent attention has."""
MLA_GEMM_LAYERS: Final = frozenset(("q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj"))
FUSED_DOWN_LAYERS: Final = ("q_a_proj", "kv_a_proj")
"""The matrices of compression, which engines that fuse q, k and v compute as one."""


def attention_layers(model: ModelConfig) -> tuple[str, ...]:
    """Layers between a block's two norms, in order."""
    if not model.is_mla:
        return ("q_proj", "k_proj", "v_proj", "rope", "attn", "o_proj")
    query = COMPRESSED_QUERY if model.q_lora_rank else ("q_proj",)
    return (*query, *COMPRESSED_KV, "attn", "o_proj")


def mla_shape(model: ModelConfig, layer: str, heads: int) -> LayerShape:
    """Shape of a layer of :func:`attention_layers` on a rank with ``heads`` heads; compression is not split.

    ``kv_b_proj`` has the flops of a token either way: making its key and value, or going into its query and result.
    """
    hidden, latent, rotated = model.hidden_size, model.kv_lora_rank, model.qk_rope_head_dim
    query, value = heads * model.head_dim, heads * model.v_head_dim
    rope = (heads + 1) * rotated
    shapes = {
        "q_proj": gemm_shape(hidden, query, bias=False),
        "q_a_proj": gemm_shape(hidden, model.q_lora_rank, bias=model.attention_bias),
        "q_a_layernorm": norm_shape(model.q_lora_rank),
        "q_b_proj": gemm_shape(model.q_lora_rank, query, bias=False),
        "kv_a_proj": gemm_shape(hidden, latent + rotated, bias=model.attention_bias),
        "kv_a_layernorm": norm_shape(latent),
        "rope": LayerShape(0, rope, rope, 3 * rope),
        "kv_b_proj": gemm_shape(latent, heads * model.qk_nope_head_dim + value, bias=False),
        "attn": LayerShape(0, 2 * query + value, value, 0),
        "o_proj": gemm_shape(value, hidden, bias=model.attention_bias),
    }
    return shapes[layer]

"""What one layer reads, writes and computes on one tensor-parallel rank.

Split over ``tp_size`` ranks (Megatron-LM, Shoeybi et al. 2019): q, k, v, gate and up by output columns, o and
down by input rows, embedding and lm_head by vocabulary; norms are replicated. With more ranks than K and V
heads, these heads are replicated. Counts are elements, not bytes: multiply by bits / 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from astra_sim.input_error import InputError
from llm_profile.model_config import ModelConfig

BLOCK_LAYERS: Final = (
    "input_layernorm",
    "q_proj",
    "k_proj",
    "v_proj",
    "rope",
    "attn",
    "o_proj",
    "post_layernorm",
    "gate_proj",
    "up_proj",
    "act_fn",
    "down_proj",
)
"""Layers of one transformer block, in order."""
LAYERS: Final = ("embedding", *BLOCK_LAYERS, "final_layernorm", "lm_head")
"""Every layer name: before, in and after the blocks."""
GEMM_LAYERS: Final = frozenset(
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
)
"""Layers that multiply activations with a weight matrix."""

GATE: Final = "gate"
"""The router of a mixture-of-experts block: one matrix from the hidden state to a score for each expert."""
EXPERT_LAYERS: Final = ("expert.w1", "expert.w3", "act_fn", "expert.w2")
"""Layers of one expert, in order: gate and up projection, activation, down projection."""
MLP_LAYERS: Final = ("gate_proj", "up_proj", "act_fn", "down_proj")
"""What a dense block has where one with experts has its router and its experts."""

QKV_LAYERS: Final = ("q_proj", "k_proj", "v_proj")
GATE_UP_LAYERS: Final = ("gate_proj", "up_proj")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Size of one layer on one rank.

    ``weight_elements`` are stored (an embedding stores its table but reads one row a token);
    ``input_width`` and ``output_width`` are elements a token; ``flops_per_token`` counts a multiply-add as 2.
    """

    weight_elements: int
    input_width: int
    output_width: int
    flops_per_token: int


def check_tp_size(model: ModelConfig, tp_size: int) -> None:
    """Refuse a ``tp_size`` over which heads or MLP columns of ``model`` cannot be split evenly."""
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    if tp_size < 1:
        raise InputError(model.name, "tp_size", f"{tp_size}: must be at least 1")
    columns = model.intermediate_size

    def splits(ranks: int) -> bool:
        kv_fits = kv_heads % ranks == 0 or ranks % kv_heads == 0
        return heads % ranks == 0 and columns % ranks == 0 and kv_fits

    if not splits(tp_size):
        fits = ", ".join(str(ranks) for ranks in range(1, heads + 1) if splits(ranks))
        raise InputError(
            model.name,
            "tp_size",
            f"{tp_size}: cannot split {heads} attention heads, {kv_heads} K/V heads and "
            f"intermediate_size {columns} evenly; use one of {fits}",
        )


def heads_per_rank(model: ModelConfig, tp_size: int) -> tuple[int, int]:
    """(attention heads, K/V heads) of one rank; K/V heads are replicated over more ranks than heads."""
    check_tp_size(model, tp_size)
    return model.num_attention_heads // tp_size, max(1, model.num_key_value_heads // tp_size)


def layer_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    """Shape of ``layer`` (a name of :data:`LAYERS`, or :data:`GATE`) on one of ``tp_size`` ranks.

    The per-head q and k norms of Qwen3 are counted with q_proj and k_proj. ``attn`` has no weights and its
    flops depend on the context, so they are 0 here (see ``LatencyModel.attention_ns``). The residual stream,
    which norms also read and write, is not counted. MoE models have no gate, up, act and down, but a router,
    whole on every rank, and experts (:func:`expert_shapes`).
    """
    if layer == GATE:
        _check_moe(model)
        return _gemm(model.hidden_size, model.num_experts, bias=False)
    if layer not in LAYERS:
        raise ValueError(f"unknown layer {layer!r}; layers are {', '.join(LAYERS)}")
    if layer in ("embedding", "lm_head", "final_layernorm", "input_layernorm", "post_layernorm"):
        return _edge_or_norm_shape(model, layer, tp_size)
    if layer in MLP_LAYERS:
        return _mlp_shape(model, layer, tp_size)
    return _attention_shape(model, layer, tp_size)


def block_layers(model: ModelConfig) -> tuple[str, ...]:
    """Layers of a block that are priced by token count, and ``attn``; experts are not (``LatencyModel.moe_ns``)."""
    if not model.is_moe:
        return BLOCK_LAYERS
    return (*(layer for layer in BLOCK_LAYERS if layer not in MLP_LAYERS), GATE)


def expert_shapes(model: ModelConfig, expert_tp_size: int = 1) -> dict[str, LayerShape]:
    """Shapes of :data:`EXPERT_LAYERS` of one expert, whose columns ``expert_tp_size`` ranks share."""
    _check_moe(model)
    width, hidden = model.moe_intermediate_size, model.hidden_size
    if expert_tp_size < 1 or width % expert_tp_size:
        raise InputError(
            model.name,
            "expert_tp_size",
            f"{expert_tp_size}: cannot split moe_intermediate_size {width} evenly",
        )
    columns = width // expert_tp_size
    into = _gemm(hidden, columns, bias=False)
    activation = LayerShape(0, 2 * columns, columns, 5 * columns)
    return dict(zip(EXPERT_LAYERS, (into, into, activation, _gemm(columns, hidden, bias=False)), strict=True))


def _check_moe(model: ModelConfig) -> None:
    if not model.is_moe:
        raise InputError(model.name, "num_experts", "this is not a mixture-of-experts model")


def fused_shape(model: ModelConfig, layers: Sequence[str], tp_size: int) -> LayerShape:
    """Shape of matrix layers that have one input, computed as one."""
    shapes = [layer_shape(model, layer, tp_size) for layer in layers]
    return LayerShape(
        sum(shape.weight_elements for shape in shapes),
        shapes[0].input_width,
        sum(shape.output_width for shape in shapes),
        sum(shape.flops_per_token for shape in shapes),
    )


def kv_bytes_per_token(model: ModelConfig, tp_size: int, kv_bits: int = 16) -> int:
    """Bytes of K and V of one token in one layer of one rank."""
    _, kv_heads = heads_per_rank(model, tp_size)
    return 2 * kv_heads * model.head_dim * kv_bits // 8


def weight_bytes(
    model: ModelConfig, tp_size: int = 1, bits: int = 16, expert_ranks: int | None = None
) -> int:
    """Bytes of all weights of one rank, as if every block were on it (no pipeline parallelism)."""
    return parameters_per_rank(model, tp_size, expert_ranks) * bits // 8


def parameters_per_rank(model: ModelConfig, tp_size: int = 1, expert_ranks: int | None = None) -> int:
    """Weights that one rank stores; tied embeddings count once.

    Experts are spread evenly over ``expert_ranks`` ranks, by default the tensor-parallel ones.
    """
    check_tp_size(model, tp_size)
    block = block_parameters_per_rank(model, tp_size, expert_ranks)
    edges = ["embedding", "final_layernorm"] + ([] if model.tie_word_embeddings else ["lm_head"])
    outside = sum(layer_shape(model, layer, tp_size).weight_elements for layer in edges)
    return model.num_hidden_layers * block + outside


def block_parameters_per_rank(model: ModelConfig, tp_size: int = 1, expert_ranks: int | None = None) -> int:
    """Weights of one transformer block that one rank stores, experts as in :func:`parameters_per_rank`."""
    block = sum(layer_shape(model, layer, tp_size).weight_elements for layer in block_layers(model))
    if model.is_moe:
        expert = sum(shape.weight_elements for shape in expert_shapes(model).values())
        block += model.num_experts * expert // (expert_ranks or tp_size)
    return block


def _gemm(inputs: int, outputs: int, *, bias: bool, extra_weights: int = 0) -> LayerShape:
    weights = inputs * outputs + (outputs if bias else 0) + extra_weights
    return LayerShape(weights, inputs, outputs, 2 * inputs * outputs)


def _edge_or_norm_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    hidden = model.hidden_size
    vocabulary = -(-model.vocab_size // tp_size)
    if layer == "embedding":
        return LayerShape(vocabulary * hidden, hidden, hidden, 0)
    if layer == "lm_head":
        return _gemm(hidden, vocabulary, bias=model.lm_head_bias)
    weights = 2 * hidden if model.model_type == "phimoe" else hidden  # PhiMoE: LayerNorm with scale and shift
    return LayerShape(weights, hidden, hidden, 4 * hidden)


def _attention_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    heads, kv_heads = heads_per_rank(model, tp_size)
    q_width, kv_width = heads * model.head_dim, kv_heads * model.head_dim
    qkv_bias = model.attention_bias or model.model_type == "qwen2"
    norm = model.head_dim if model.has_qk_norm else 0
    match layer:
        case "q_proj":
            return _gemm(model.hidden_size, q_width, bias=qkv_bias, extra_weights=norm)
        case "k_proj":
            return _gemm(model.hidden_size, kv_width, bias=qkv_bias, extra_weights=norm)
        case "v_proj":
            return _gemm(model.hidden_size, kv_width, bias=qkv_bias)
        case "rope":
            return LayerShape(0, q_width + kv_width, q_width + kv_width, 3 * (q_width + kv_width))
        case "attn":
            return LayerShape(0, q_width + 2 * kv_width, q_width, 0)
        case _:  # o_proj
            bias = model.attention_bias and model.model_type != "qwen2"
            return _gemm(q_width, model.hidden_size, bias=bias)


def _mlp_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    check_tp_size(model, tp_size)
    if model.is_moe:
        raise InputError(model.name, layer, "is not a layer of a mixture-of-experts model")
    columns = model.intermediate_size // tp_size
    match layer:
        case "act_fn":
            return LayerShape(0, 2 * columns, columns, 5 * columns)
        case "down_proj":
            return _gemm(columns, model.hidden_size, bias=model.mlp_bias)
        case _:  # gate_proj, up_proj
            return _gemm(model.hidden_size, columns, bias=model.mlp_bias)

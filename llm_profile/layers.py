"""What one layer reads, writes and computes on one tensor-parallel rank.

Split over ``tp_size`` ranks (Megatron-LM, Shoeybi et al. 2019): q, k, v, gate and up by output columns, o and
down by input rows, embedding and lm_head by vocabulary; norms are replicated. With more ranks than K and V
heads, these heads are replicated. Counts are elements, not bytes: multiply by bits / 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from astra_sim.input_error import InputError
from llm_profile.layer_shape import LayerShape, gemm_shape, mlp_shapes
from llm_profile.mla import MLA_LAYERS, attention_layers, mla_shape
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
SHARED_EXPERTS: Final = "shared_experts"
"""The experts of a block that every token goes to, as one MLP."""
EXPERTS: Final = "experts"
"""The routed experts of a block, which are one row of a trace."""
OTHER_LAYERS: Final = (GATE, SHARED_EXPERTS, *MLA_LAYERS)
"""Layers priced by token count that only some models have."""

QKV_LAYERS: Final = ("q_proj", "k_proj", "v_proj")
GATE_UP_LAYERS: Final = ("gate_proj", "up_proj")


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
    """Shape of ``layer`` (a name of :data:`LAYERS` or :data:`OTHER_LAYERS`) on one of ``tp_size`` ranks.

    The per-head q and k norms of Qwen3 are counted with q_proj and k_proj. ``attn`` has no weights and its
    flops depend on the context, so they are 0 here (see ``LatencyModel.attention_ns``). The residual stream,
    which norms also read and write, is not counted. Blocks with experts have no gate, up, act and down, but a router,
    whole on every rank, and experts (:func:`expert_shapes`). Shared experts have the sums of their matrices.
    """
    if layer == GATE:
        _check_moe(model)
        bias = model.model_type == "deepseek_v3"  # a correction of each expert's score
        return gemm_shape(model.hidden_size, model.num_experts, bias=bias)
    if layer == SHARED_EXPERTS:
        shapes = shared_expert_shapes(model, tp_size).values()
        weights, flops = (
            sum(getattr(one, f) for one in shapes) for f in ("weight_elements", "flops_per_token")
        )
        return LayerShape(weights, model.hidden_size, model.hidden_size, flops)
    if model.is_mla and layer in attention_layers(model):
        return mla_shape(model, layer, heads_per_rank(model, tp_size)[0])
    if layer not in LAYERS:
        raise ValueError(f"unknown layer {layer!r}; layers are {', '.join(LAYERS)}")
    if layer in ("embedding", "lm_head", "final_layernorm", "input_layernorm", "post_layernorm"):
        return _edge_or_norm_shape(model, layer, tp_size)
    if layer in MLP_LAYERS:
        return _mlp_shape(model, layer, tp_size)
    return _attention_shape(model, layer, tp_size)


def block_layers(model: ModelConfig, block: int) -> tuple[str, ...]:
    """Layers of a block that are priced by token count, and ``attn``; experts are not (``LatencyModel.moe_ns``)."""
    attention = ("input_layernorm", *attention_layers(model), "post_layernorm")
    if not model.has_experts(block):
        return (*attention, *MLP_LAYERS)
    return (*attention, *((SHARED_EXPERTS,) if model.shared_expert_width else ()), GATE)


def block_kinds(model: ModelConfig) -> dict[int, int]:
    """How many blocks there are of each kind, dense and with experts, by the number of the kind's first block."""
    with_experts = [model.has_experts(block) for block in range(model.num_hidden_layers)]
    return {with_experts.index(kind): with_experts.count(kind) for kind in dict.fromkeys(with_experts)}


def model_layers(model: ModelConfig) -> tuple[str, ...]:
    """Every layer of a model that is priced by token count, and ``attn``: those of each kind of block once."""
    inside = dict.fromkeys(layer for block in block_kinds(model) for layer in block_layers(model, block))
    return ("embedding", *inside, "final_layernorm", "lm_head")


def layers_beyond_tables(model: ModelConfig) -> tuple[str, ...]:
    """Layers that the layouts of measured tables have no place for; without any, they can hold the model.

    They have either a dense MLP or experts, so a mixture with dense blocks has its dense MLP beyond them.
    """
    layers = model_layers(model)
    known = {*BLOCK_LAYERS, GATE, "embedding", "final_layernorm", "lm_head"}
    return tuple(layer for layer in layers if layer not in known or (model.is_moe and layer in MLP_LAYERS))


def expert_shapes(model: ModelConfig, expert_tp_size: int = 1) -> dict[str, LayerShape]:
    """Shapes of :data:`EXPERT_LAYERS` of one expert, whose columns ``expert_tp_size`` ranks share."""
    _check_moe(model)
    columns = _columns(model, "moe_intermediate_size", model.moe_intermediate_size, expert_tp_size)
    return dict(zip(EXPERT_LAYERS, mlp_shapes(model.hidden_size, columns, bias=False), strict=True))


def shared_expert_shapes(model: ModelConfig, expert_tp_size: int = 1) -> dict[str, LayerShape]:
    """Shapes of :data:`MLP_LAYERS` of the shared experts as one MLP, whose columns ``expert_tp_size`` ranks share.

    The gate of Qwen2-MoE's (one row) is counted with gate_proj.
    """
    if not model.shared_expert_width:
        raise InputError(model.name, "n_shared_experts", "this model has no shared experts")
    columns = _columns(model, "width of shared experts", model.shared_expert_width, expert_tp_size)
    gate, *others = mlp_shapes(model.hidden_size, columns, bias=False)
    if model.model_type == "qwen2_moe":
        gate = gemm_shape(model.hidden_size, columns + 1, bias=False)
    return dict(zip(MLP_LAYERS, (gate, *others), strict=True))


def _columns(model: ModelConfig, what: str, width: int, ranks: int) -> int:
    if ranks < 1 or width % ranks:
        raise InputError(model.name, "expert_tp_size", f"{ranks}: cannot split {what} {width} evenly")
    return width // ranks


def _check_moe(model: ModelConfig) -> None:
    if not model.is_moe:
        raise InputError(model.name, "num_experts", "this is not a mixture-of-experts model")


def fused_shape(model: ModelConfig, layers: Sequence[str], tp_size: int) -> LayerShape:
    """Shape of matrix layers that have one input, computed as one."""
    return fused([layer_shape(model, layer, tp_size) for layer in layers])


def fused(shapes: Sequence[LayerShape]) -> LayerShape:
    """Shape of matrices that have one input, computed as one."""
    return LayerShape(
        sum(shape.weight_elements for shape in shapes),
        shapes[0].input_width,
        sum(shape.output_width for shape in shapes),
        sum(shape.flops_per_token for shape in shapes),
    )


def kv_bytes_per_token(model: ModelConfig, tp_size: int, kv_bits: int = 16) -> int:
    """Bytes of K and V of one token in one layer of one rank; a latent vector is whole on every rank."""
    _, kv_heads = heads_per_rank(model, tp_size)
    return kv_heads * model.kv_head_elements * kv_bits // 8


def weight_bytes(model: ModelConfig, tp_size: int = 1, bits: int = 16, ep_size: int = 1) -> int:
    """Bytes of all weights of one rank, as if every block were on it (no pipeline parallelism)."""
    return parameters_per_rank(model, tp_size, ep_size) * bits // 8


def parameters_per_rank(model: ModelConfig, tp_size: int = 1, ep_size: int = 1) -> int:
    """Weights that one rank stores; tied embeddings count once. Experts as :func:`stored_elements` says."""
    check_tp_size(model, tp_size)

    def stored(layers: Sequence[str]) -> int:
        return sum(stored_elements(model, layer, tp_size, ep_size) for layer in layers)

    blocks = sum(count * stored(block_rows(model, block)) for block, count in block_kinds(model).items())
    edges = ["embedding", "final_layernorm"] + ([] if model.tie_word_embeddings else ["lm_head"])
    return blocks + stored(edges)


def block_rows(model: ModelConfig, block: int) -> tuple[str, ...]:
    """Rows of one block of a trace, in order: its layers, and its routed experts as one."""
    layers = block_layers(model, block)
    return (*layers, EXPERTS) if model.has_experts(block) else layers


def stored_elements(model: ModelConfig, row: str, tp_size: int, ep_size: int = 1) -> int:
    """Weights of a row that one rank stores.

    Routed experts are shared evenly by the ``ep_size`` ranks over which whole ones are spread, or by the
    tensor-parallel ones. Shared experts are split over the latter, and whole on every rank where experts are spread.
    """
    if row == EXPERTS:
        expert = sum(shape.weight_elements for shape in expert_shapes(model).values())
        return model.num_experts * expert // max(ep_size, tp_size)
    ranks = 1 if row == SHARED_EXPERTS and ep_size > 1 else tp_size
    return layer_shape(model, row, ranks).weight_elements


def _edge_or_norm_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    hidden = model.hidden_size
    vocabulary = -(-model.vocab_size // tp_size)
    if layer == "embedding":
        return LayerShape(vocabulary * hidden, hidden, hidden, 0)
    if layer == "lm_head":
        return gemm_shape(hidden, vocabulary, bias=model.lm_head_bias)
    weights = 2 * hidden if model.model_type == "phimoe" else hidden  # PhiMoE: LayerNorm with scale and shift
    return LayerShape(weights, hidden, hidden, 4 * hidden)


def _attention_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    heads, kv_heads = heads_per_rank(model, tp_size)
    q_width, kv_width = heads * model.head_dim, kv_heads * model.head_dim
    qwen2 = model.model_type in ("qwen2", "qwen2_moe")
    norm = model.head_dim if model.has_qk_norm else 0
    match layer:
        case "q_proj":
            return gemm_shape(
                model.hidden_size, q_width, bias=model.attention_bias or qwen2, extra_weights=norm
            )
        case "k_proj":
            return gemm_shape(
                model.hidden_size, kv_width, bias=model.attention_bias or qwen2, extra_weights=norm
            )
        case "v_proj":
            return gemm_shape(model.hidden_size, kv_width, bias=model.attention_bias or qwen2)
        case "rope":
            return LayerShape(0, q_width + kv_width, q_width + kv_width, 3 * (q_width + kv_width))
        case "attn":
            return LayerShape(0, q_width + 2 * kv_width, q_width, 0)
        case _:  # o_proj
            return gemm_shape(q_width, model.hidden_size, bias=model.attention_bias and not qwen2)


def _mlp_shape(model: ModelConfig, layer: str, tp_size: int) -> LayerShape:
    check_tp_size(model, tp_size)
    if model.is_moe and model.expert_blocks == model.num_hidden_layers:
        raise InputError(model.name, layer, "is not a layer of a mixture-of-experts model")
    columns = model.intermediate_size // tp_size
    shapes = mlp_shapes(model.hidden_size, columns, bias=model.mlp_bias)
    return shapes[MLP_LAYERS.index(layer)]

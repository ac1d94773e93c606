"""DeepSeek and Qwen2-MoE: latent attention, shared experts and dense first blocks, against published figures."""

from __future__ import annotations

import numpy as np
import pytest

from astra_sim.input_error import InputError
from llm_profile.hardware import PROJECT_HARDWARE_DIR, load_hardware
from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.layers import (
    GATE,
    GEMM_LAYERS,
    SHARED_EXPERTS,
    block_rows,
    expert_shapes,
    kv_bytes_per_token,
    layer_shape,
    parameters_per_rank,
    shared_expert_shapes,
)
from llm_profile.mla import MLA_GEMM_LAYERS
from llm_profile.model_config import ModelConfig, load_model_config

V2_LITE = load_model_config("deepseek-ai/DeepSeek-V2-Lite")
V3 = load_model_config("deepseek-ai/DeepSeek-V3")
QWEN = load_model_config("Qwen/Qwen1.5-MoE-A2.7B")
NONE = np.empty(0, dtype=np.int64)
ATTENTION = ("kv_a_proj", "kv_a_layernorm", "rope", "kv_b_proj", "attn", "o_proj", "post_layernorm")


def active_parameters(model: ModelConfig) -> int:
    """Weights that one token meets: all but the experts that it is not sent to."""
    expert = sum(shape.weight_elements for shape in expert_shapes(model).values())
    idle = model.num_experts - model.num_experts_per_tok
    return parameters_per_rank(model) - model.expert_blocks * idle * expert


@pytest.mark.parametrize(
    ("model", "billions", "table_counts"), [(V2_LITE, 2.4, False), (V3, 37, True), (QWEN, 2.7, True)]
)
def test_active_parameters_are_those_of_the_model_cards(model, billions, table_counts):
    """The card of V2-Lite leaves the embedding out, of which a token reads one row."""
    table = 0 if table_counts else model.vocab_size * model.hidden_size
    assert (active_parameters(model) - table) / 1e9 == pytest.approx(billions, rel=0.025)


@pytest.mark.parametrize("model", [V2_LITE, V3, QWEN], ids=lambda model: model.name)
def test_a_token_takes_two_flops_for_each_active_parameter_but_the_embedding(model):
    """Norms, rope and activations are left out on the left; norms and biases are the difference on the right."""
    flops = layer_shape(model, "lm_head", 1).flops_per_token
    for block in range(model.num_hidden_layers):
        for row in block_rows(model, block):
            if row in GEMM_LAYERS | MLA_GEMM_LAYERS | {GATE}:
                flops += layer_shape(model, row, 1).flops_per_token
            mlp, copies = {}, 1
            if row == SHARED_EXPERTS:
                mlp = shared_expert_shapes(model)
            elif row == "experts":
                mlp, copies = expert_shapes(model), model.num_experts_per_tok
            flops += copies * sum(one.flops_per_token for one in mlp.values() if one.weight_elements)
    matrices = active_parameters(model) - model.vocab_size * model.hidden_size
    assert flops == pytest.approx(2 * matrices, rel=3e-4)
    assert flops < 2 * matrices


def test_the_cache_of_a_token_has_the_published_size():
    """70.272 KB for V3, "Insights into DeepSeek-V3" (2025), table 1; whole on every rank."""
    for tp_size in (1, 8):
        assert kv_bytes_per_token(V3, tp_size) * V3.num_hidden_layers == 70_272


def test_first_blocks_are_dense():
    mlp = ("gate_proj", "up_proj", "act_fn", "down_proj")
    assert block_rows(V3, 2) == (
        "input_layernorm", "q_a_proj", "q_a_layernorm", "q_b_proj", *ATTENTION, *mlp
    )  # fmt: skip
    assert block_rows(V3, 3)[-3:] == ("shared_experts", "gate", "experts")
    assert block_rows(V2_LITE, 0) == ("input_layernorm", "q_proj", *ATTENTION, *mlp)
    assert [V3.expert_blocks, V2_LITE.expert_blocks, QWEN.expert_blocks] == [58, 26, 24]


def test_qwen_mixes_blocks_by_step_and_list():
    facts = QWEN.model_dump() | {"decoder_sparse_step": 2, "mlp_only_layers": [3]}
    model = ModelConfig.model_validate(facts)
    assert [block for block in range(8) if model.has_experts(block)] == [1, 5, 7]


def test_ranks_share_heads_but_not_the_compression():
    for layer in ("q_a_proj", "kv_a_proj", "kv_a_layernorm"):
        assert layer_shape(V3, layer, 8) == layer_shape(V3, layer, 1)
    for layer in ("q_b_proj", "kv_b_proj", "o_proj", "shared_experts"):
        assert layer_shape(V3, layer, 8).weight_elements * 8 == layer_shape(V3, layer, 1).weight_elements


def decode_ns(model: ModelConfig, tp_size: int, requests: int, kv: int) -> int:
    query = LatencyQuery("H200", model, tp_size)
    return open_latency_model(query, "calibrated").attention_ns(NONE, NONE, np.full(requests, kv))


def test_decodes_come_near_the_published_kernels():
    """FlashMLA on H800 (3.35 TB/s, 989 TFLOPS) reports 3 TB/s where reading decides, 580 and later 660 TFLOPS else."""
    card = load_hardware(PROJECT_HARDWARE_DIR / "H200.yaml")
    read = 128 * 8192 * 576 * 2 / decode_ns(V3, 8, 128, 8192) / card.memory.bandwidth_gbps
    assert read == pytest.approx(3000 / 3350, rel=0.08)
    flops = 128 * 8192 * 2 * 128 * (576 + 512)
    assert 0.95 * 580e3 < flops / decode_ns(V3, 1, 128, 8192) < 660e3


def test_context_of_a_chunk_is_expanded_again():
    """A chunk on cached context costs its pairs of query and key, and kv_b_proj of the context once more."""
    latency = open_latency_model(LatencyQuery("H200", V3, 1), "calibrated")
    parts = [latency.attention_ns(np.array([n]), np.array([c]), NONE) for n, c in ((64, 0), (64, 4096))]
    expanded = latency.layer_ns("kv_b_proj", np.array([4096]))[0]
    pairs = 2 * 128 * (192 + 128) * 64 * 4096 / 989e3
    assert expanded + pairs < parts[1] - parts[0] < expanded + 6 * pairs


def test_no_attention_of_this_form_was_fitted():
    latency = open_latency_model(LatencyQuery("H100", V2_LITE, 1), "calibrated")
    assert latency.attention_source(NONE, NONE, np.array([100])) is Source.ESTIMATED
    assert latency.source("kv_b_proj", 100) is Source.INTERPOLATED


def test_shared_experts_take_as_long_as_a_dense_mlp_of_their_width():
    latency = open_latency_model(LatencyQuery("H100", V2_LITE, 1), "calibrated")
    facts = V2_LITE.model_dump() | {"intermediate_size": V2_LITE.shared_expert_width}
    dense = open_latency_model(LatencyQuery("H100", ModelConfig.model_validate(facts), 1), "calibrated")
    counts = np.array([1, 64, 700])
    mlp = sum(dense.layer_ns(layer, counts) for layer in ("gate_proj", "up_proj", "act_fn", "down_proj"))
    assert np.abs(latency.layer_ns("shared_experts", counts) - mlp).max() <= 2


@pytest.mark.parametrize("source", ["tables", "bundle", "silicon"])
def test_sources_of_measurements_have_no_place_for_it(source):
    with pytest.raises(InputError, match=f"{source}: model_name: no tables can hold kv_a_proj, "):
        open_latency_model(LatencyQuery("H100", V2_LITE, 1), source)
    with pytest.raises(InputError, match="no tables can hold shared_experts beside"):
        open_latency_model(LatencyQuery("H100", QWEN, 1), source)

import pytest

from astra_sim.input_error import InputError
from llm_profile.layers import (
    BLOCK_LAYERS,
    LAYERS,
    block_layers,
    kv_bytes_per_token,
    layer_shape,
    parameters_per_rank,
    weight_bytes,
)
from llm_profile.model_config import load_model_config

LLAMA = load_model_config("meta-llama/Llama-3.1-8B")
QWEN = load_model_config("Qwen/Qwen3-32B")
MIXTRAL = load_model_config("mistralai/Mixtral-8x7B-v0.1")


def test_layers_are_in_the_order_of_execution():
    assert LAYERS[0] == "embedding"
    assert LAYERS[-2:] == ("final_layernorm", "lm_head")
    assert LAYERS[1:-2] == BLOCK_LAYERS
    assert BLOCK_LAYERS.index("rope") < BLOCK_LAYERS.index("attn") < BLOCK_LAYERS.index("o_proj")


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
@pytest.mark.parametrize("layer", ["q_proj", "o_proj", "gate_proj", "down_proj", "lm_head"])
def test_matrices_are_split_evenly(layer, tp_size):
    whole, part = layer_shape(LLAMA, layer, 1), layer_shape(LLAMA, layer, tp_size)
    assert part.weight_elements * tp_size == whole.weight_elements
    assert part.flops_per_token * tp_size == whole.flops_per_token


def test_norms_are_not_split():
    assert layer_shape(LLAMA, "input_layernorm", 4) == layer_shape(LLAMA, "input_layernorm", 1)


def test_kv_heads_are_replicated_when_there_are_more_ranks():
    assert kv_bytes_per_token(LLAMA, 1) == 2 * 8 * 128 * 2
    assert kv_bytes_per_token(LLAMA, 8) == kv_bytes_per_token(LLAMA, 16) == 2 * 128 * 2
    assert kv_bytes_per_token(LLAMA, 1, kv_bits=8) == 2 * 8 * 128
    assert layer_shape(LLAMA, "k_proj", 16) == layer_shape(LLAMA, "k_proj", 8)


def test_qwen3_counts_its_head_norms_with_the_projections():
    assert layer_shape(QWEN, "q_proj", 1).weight_elements == 5120 * 64 * 128 + 128
    assert layer_shape(QWEN, "v_proj", 1).weight_elements == 5120 * 8 * 128


def test_weights_of_all_ranks_are_the_model_plus_replicated_norms():
    norms = (2 * LLAMA.num_hidden_layers + 1) * LLAMA.hidden_size
    assert 2 * parameters_per_rank(LLAMA, 2) == parameters_per_rank(LLAMA, 1) + norms
    assert weight_bytes(LLAMA, 1, 8) * 2 == weight_bytes(LLAMA, 1, 16)


def test_unsplittable_models_are_refused_with_what_fits():
    with pytest.raises(InputError) as caught:
        layer_shape(LLAMA, "q_proj", 3)
    assert str(caught.value) == (
        "meta-llama/Llama-3.1-8B: tp_size: 3: cannot split 32 attention heads, 8 K/V heads and "
        "intermediate_size 14336 evenly; use one of 1, 2, 4, 8, 16, 32"
    )


def test_expert_models_have_no_dense_mlp():
    with pytest.raises(InputError, match=r"gate_proj: is not a layer of a mixture-of-experts model"):
        layer_shape(MIXTRAL, "gate_proj", 1)


def test_unknown_layer_is_a_programming_error():
    with pytest.raises(ValueError, match="unknown layer 'softmax'"):
        layer_shape(LLAMA, "softmax", 1)


def test_a_block_with_experts_has_a_router_for_its_mlp():
    assert block_layers(LLAMA, 0) == BLOCK_LAYERS
    assert block_layers(MIXTRAL, 0) == (*BLOCK_LAYERS[:8], "gate")
    with pytest.raises(InputError, match="num_experts: this is not a mixture-of-experts model"):
        layer_shape(LLAMA, "gate", 1)

"""Memory of an NPU: weights first, and as many whole KV blocks as the rest holds."""

from __future__ import annotations

import pytest
from clusters import TINY_MODEL
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.memory_model import GIB, MemoryPlan, Precision, activation_bytes, plan_memory
from llm_profile.model_config import ModelConfig, load_model_config

TINY = ModelConfig(name="tiny", **TINY_MODEL)
LLAMA_8B = load_model_config("meta-llama/Llama-3.1-8B")
LLAMA_70B = load_model_config("meta-llama/Llama-3.1-70B")

# Parameters of Llama-3.1-8B by hand. On n ranks all but the norms are split.
BLOCK = 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096 + 3 * 4096 * 14336  # q, k and v, o, MLP
NORMS = (2 * 32 + 1) * 4096
VOCABULARY = 2 * 128256 * 4096  # embedding and lm_head
KV_BYTES_OF_A_TOKEN = 32 * 2 * 8 * 128 * 2  # layers, K and V, heads, elements of a head, bytes


def weights_8b(ranks: int) -> int:
    return (32 * BLOCK + VOCABULARY) // ranks + NORMS


def test_the_weights_of_llama_8b_are_those_of_its_model_card():
    assert weights_8b(1) == 8_030_261_248


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_share_weights_and_kv_heads(ranks):
    assert plan_memory(LLAMA_8B, ranks, Precision(), 16, 80, 0.9) == MemoryPlan(
        usable_bytes=int(72 * GIB),
        weight_bytes=2 * weights_8b(ranks),
        kv_bytes_per_block=16 * KV_BYTES_OF_A_TOKEN // ranks,
    )


def test_more_ranks_than_kv_heads_each_keep_a_whole_head():
    eight, sixteen = (plan_memory(LLAMA_8B, ranks, Precision(), 16, 80, 0.9) for ranks in (8, 16))
    assert sixteen.kv_bytes_per_block == eight.kv_bytes_per_block == 16 * KV_BYTES_OF_A_TOKEN // 8
    assert sixteen.weight_bytes < eight.weight_bytes


@pytest.mark.parametrize(("weight_bits", "kv_bits"), [(8, 8), (8, 16), (16, 8), (32, 16), (32, 32)])
def test_bits_scale_weights_and_kv_apart_from_each_other(weight_bits, kv_bits):
    plan = plan_memory(LLAMA_8B, 1, Precision(weight_bits, kv_bits), 16, 80, 0.9)
    assert plan.weight_bytes == weights_8b(1) * weight_bits // 8
    assert plan.kv_bytes_per_block == 16 * KV_BYTES_OF_A_TOKEN * kv_bits // 16


@pytest.mark.parametrize("block_size", [1, 8, 16, 128])
def test_a_block_holds_the_kv_of_its_tokens_in_all_layers(block_size):
    plan = plan_memory(LLAMA_8B, 1, Precision(), block_size, 80, 0.9)
    assert plan.kv_bytes_per_block == block_size * KV_BYTES_OF_A_TOKEN


@pytest.mark.parametrize(
    ("model", "ranks", "gigabytes", "utilization", "blocks"),
    [
        (LLAMA_8B, 1, 40, 0.9, 10_773),
        (LLAMA_8B, 1, 80, 0.9, 29_205),
        (LLAMA_8B, 1, 80, 1.0, 33_301),
        (LLAMA_8B, 2, 40, 0.9, 29_205),
        (LLAMA_70B, 4, 80, 0.9, 32_066),
    ],
)
def test_blocks_by_hand(model, ranks, gigabytes, utilization, blocks):
    """The last: (77,309,411,328 - 35,278,831,616) bytes / (16 tokens * 81,920 bytes) = 32,066.7."""
    assert plan_memory(model, ranks, Precision(), 16, gigabytes, utilization).kv_blocks == blocks


@pytest.mark.parametrize(("usable", "blocks"), [(99, -1), (100, 0), (109, 0), (110, 1), (119, 1), (120, 2)])
def test_only_whole_blocks_count_and_weights_that_do_not_fit_leave_less_than_one(usable, blocks):
    assert MemoryPlan(usable_bytes=usable, weight_bytes=100, kv_bytes_per_block=10).kv_blocks == blocks


@pytest.mark.parametrize(("weight_bits", "bytes_a_token"), [(8, 8_192), (16, 16_384), (32, 32_768)])
def test_a_paused_chunk_keeps_hidden_states_and_residual(weight_bits, bytes_a_token):
    """Llama-3.1-8B: two tensors of 4096 elements a token; 2,048 tokens in 16 bits hold 32 MiB."""
    precision = Precision(weight_bits, kv_bits=16)
    assert activation_bytes(LLAMA_8B, precision, 1) == bytes_a_token
    assert activation_bytes(LLAMA_8B, precision, 2_048) == 2_048 * bytes_a_token


def test_a_gigabyte_is_2_to_the_30_bytes():
    assert plan_memory(TINY, 1, Precision(), 16, 1, 1.0).usable_bytes == 1_073_741_824


plans = st.builds(
    plan_memory,
    st.sampled_from([TINY, LLAMA_8B, LLAMA_70B]),
    st.sampled_from([1, 2, 4]),
    st.builds(Precision, st.sampled_from([8, 16, 32]), st.sampled_from([8, 16, 32])),
    st.integers(1, 256),
    st.floats(0.001, 1000),
    st.floats(0.01, 1),
)


@given(plans)
def test_the_blocks_fit_and_one_more_would_not(plan):
    with_blocks = plan.weight_bytes + plan.kv_blocks * plan.kv_bytes_per_block
    assert with_blocks <= plan.usable_bytes < with_blocks + plan.kv_bytes_per_block


@given(st.floats(1, 500), st.floats(1, 500), st.sampled_from([1, 2, 4, 8]))
def test_more_memory_never_holds_fewer_blocks(one, other, ranks):
    less, more = (
        plan_memory(LLAMA_8B, ranks, Precision(), 16, gigabytes, 0.9).kv_blocks
        for gigabytes in sorted((one, other))
    )
    assert less <= more

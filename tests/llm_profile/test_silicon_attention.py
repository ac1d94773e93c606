"""Attention from measured prompts and decode batches, against closed forms."""

import fake_aiconfigurator as fake
import numpy as np
import pytest
from synthetic_tables import tokens

from llm_profile.silicon_attention import BLOCK_NS, CACHE_MISSES, Geometry, SiliconAttention
from llm_profile.silicon_systems import System

NONE = tokens()
HEADS, TILE, MULTIPROCESSORS, KV_BYTES = 4, 64, 8, 512
PAIR_NS = fake.prompt_ns(1024) / (1024**2 / 2)
KEY_NS = PAIR_NS * TILE * MULTIPROCESSORS / HEADS
"""A card full of blocks computes TILE * MULTIPROCESSORS / HEADS pairs of each head while each walks one key."""
LAUNCH_NS = fake.decode_ns(1, 2)


def attention(varlen: bool = False, floor_ns: float = 1e-6, cache_tokens: int = 1) -> SiliconAttention:
    prefill = np.array([(n, fake.prompt_ns(n)) for n in fake.PROMPTS], dtype=float)
    decode = [(b, kv, fake.decode_ns(b, kv)) for b in fake.BATCHES for kv in fake.LENGTHS]
    system = System("card", MULTIPROCESSORS, cache_tokens * KV_BYTES / 1e6, TILE, varlen)
    geometry = Geometry(HEADS, HEADS // 2, KV_BYTES, KV_BYTES / floor_ns)
    return SiliconAttention(prefill, np.array(decode, dtype=float), system, geometry)


@pytest.mark.parametrize(("n", "waves"), [(1, 1), (64, 1), (128, 1), (129, 2), (1024, 8)])
def test_a_history_costs_one_walk_over_its_keys_for_each_wave_of_blocks(n, waves):
    on_history = attention().ns(tokens(n), tokens(5000), NONE)
    assert on_history - attention().ns(tokens(n), tokens(0), NONE) == pytest.approx(
        5000 * KEY_NS * waves, abs=2
    )


def test_beyond_the_longest_prompt_time_grows_with_the_pairs():
    extra_pairs = (4096**2 - 1024**2) / 2
    assert attention().ns(tokens(4096), tokens(0), NONE) == round(
        fake.prompt_ns(1024) + extra_pairs * PAIR_NS
    )


def test_nothing_is_cheaper_than_reading_the_kv_once():
    assert attention(floor_ns=1000.0).ns(tokens(16), tokens(984), NONE) == 1_000_000
    assert attention(floor_ns=1000.0).ns(NONE, NONE, tokens(600, 400)) == 1_000_000


def test_each_prefill_of_a_batch_is_priced_alone_and_the_launch_once():
    one = attention().ns(tokens(1024), tokens(0), NONE)
    assert attention().ns(tokens(1024, 1024), tokens(0, 0), NONE) == pytest.approx(2 * one - LAUNCH_NS, abs=1)
    uneven = attention().ns(tokens(1024, 1024), tokens(65536, 0), NONE)
    summed = attention().ns(tokens(2048), tokens(65536), NONE)
    assert uneven < 0.6 * summed


def test_a_batch_takes_at_least_as_long_as_its_longest_request_alone():
    alone = attention().ns(NONE, NONE, tokens(1024))
    assert attention().ns(NONE, NONE, tokens(1024, 2)) >= alone


def test_separate_kernels_add_up_in_a_mixed_batch():
    prefill, decode = fake.prompt_ns(1024), fake.decode_ns(2, 128)
    mixed = attention().ns(tokens(1024), tokens(0), tokens(128, 128))
    assert mixed == round(prefill + decode - LAUNCH_NS)


def test_one_kernel_for_a_mixed_batch_walks_the_keys_of_each_decode():
    mixed = attention(varlen=True).ns(tokens(1024), tokens(0), tokens(128, 128))
    walked = (256 * KEY_NS + 2 * BLOCK_NS) * HEADS / MULTIPROCESSORS
    assert mixed == round(fake.prompt_ns(1024) + walked)


def test_in_such_a_kernel_two_query_heads_read_their_kv_one_and_a_half_times():
    floor_ns = 20.0
    mixed = attention(varlen=True, floor_ns=floor_ns).ns(tokens(1024), tokens(0), tokens(4096, 4096))
    assert mixed == round(fake.prompt_ns(1024) + 8192 * floor_ns * (1 + CACHE_MISSES))


def test_rows_whose_kv_came_from_the_cache_are_not_believed():
    """Of 8 requests, 1024 tokens fit in the cache: what they take lies on the line through 16 and 8192."""
    cached = attention(cache_tokens=2048).ns(NONE, NONE, np.full(8, 128))
    few, many = fake.decode_ns(8, 2), fake.decode_ns(8, 1024)
    assert cached == round(few + (many - few) * (1024 - 16) / (8192 - 16))

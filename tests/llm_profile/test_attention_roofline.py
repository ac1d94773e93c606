"""Batches of prefills and decodes in one kernel, computed by hand for one layer of Llama-3.1-8B on A6000."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_tables import tokens

from llm_profile.attention_roofline import AttentionRoofline
from llm_profile.hardware import Coefficients, Decode, Mixed, Prefill, find_hardware, load_hardware
from llm_profile.model_config import load_model_config
from llm_profile.protocol import LatencyQuery

CARD = load_hardware(find_hardware("A6000"))
PROCESSORS, BANDWIDTH, HEADS, HEAD_BYTES = CARD.multiprocessors, 768.0, 32, 512
NONE = tokens()
FIXED, TILE, EMPTY, WALK = 5000.0, 3000.0, 400.0, 1.5
KEY_NS = 4 * 64 * 128 * PROCESSORS / (CARD.peak_tflops.fp16 * 1e3 * 0.5)
"""A prefill's tile of 64 queries against one key."""


def attention(card=CARD, **mixed):
    coefficients = Coefficients(
        prefill=Prefill(fixed_ns=FIXED, efficiency=0.5, tail=0, crowding=1, tile_rows=64),
        decode=Decode(efficiency=0.8),
        mixed=Mixed(**{"tile_ns": TILE, "empty_ns": EMPTY, "walk": WALK, **mixed}),
    )
    query = LatencyQuery(card.name, load_model_config("meta-llama/Llama-3.1-8B"), 1)
    return AttentionRoofline(card, coefficients, query, BANDWIDTH)


def test_the_heads_of_the_decodes_share_the_multiprocessors_and_each_walks_its_keys():
    alone = attention().ns(tokens(16), tokens(0), NONE)
    both = attention().ns(tokens(16), tokens(0), np.full(40, 640))
    walk_ns = 640 * KEY_NS * WALK + TILE
    assert both - alone == pytest.approx(40 * HEADS * walk_ns / PROCESSORS, abs=2)


def test_keys_are_loaded_in_blocks_of_64():
    ns = [attention().ns(tokens(16), tokens(0), np.full(40, kv)) for kv in (65, 128, 129)]
    assert ns[0] == ns[1] < ns[2]


def test_a_request_gets_as_many_tiles_as_the_longest_chunk_most_of_them_empty():
    """A chunk of 640 has ten tiles a head; decodes use one, the other chunk two."""
    full = attention(empty_ns=0).ns(tokens(640, 100), tokens(0, 0), np.full(40, 640))
    empty = attention().ns(tokens(640, 100), tokens(0, 0), np.full(40, 640))
    assert empty - full == pytest.approx((9 * 40 + 8) * HEADS * EMPTY / PROCESSORS, abs=2)


def test_a_lone_decode_ends_a_walk_after_the_last_wave_of_the_prefill_has_begun():
    """32 heads of 20 tiles run in eight waves on 84 multiprocessors."""
    prefill_ns = attention().ns(tokens(1280), tokens(0), NONE) - FIXED
    both = attention().ns(tokens(1280), tokens(0), tokens(6400))
    assert both == pytest.approx(FIXED + prefill_ns * 7 / 8 + 6400 * KEY_NS * WALK + TILE, abs=2)


@pytest.mark.parametrize(
    ("cache_mb", "requests", "reads"),
    [
        (1000, 419, 1.0),  # the KV of one head stays in the cache for the other three of its group
        (0.001, 419, 4.0),  # the heads run one after the other, and each reads the KV anew
        (0.001, 41, 1 + 3 / 2),  # two heads run at the same time and read together
    ],
)
def test_query_heads_read_the_kv_again_unless_they_run_together_or_it_is_cached(cache_mb, requests, reads):
    card = CARD.model_copy(update={"cache_mb": cache_mb})
    fast = attention(card, tile_ns=0, empty_ns=0, walk=1e-6)
    both = fast.ns(tokens(16), tokens(0), np.full(requests, 640))
    alone = fast.ns(tokens(16), tokens(0), NONE)
    once_ns = requests * 640 * 8 * HEAD_BYTES / BANDWIDTH / 0.8
    assert both - alone == pytest.approx(reads * once_ns, rel=1e-3)


def test_without_a_shared_kernel_a_batch_is_the_sum_of_its_parts():
    card = CARD.model_copy(update={"shared_attention_kernel": False})
    kv = np.full(40, 640)
    parts = [attention(card).ns(*batch) for batch in ((tokens(640), tokens(0), NONE), (NONE, NONE, kv))]
    both = attention(card).ns(tokens(640), tokens(0), kv)
    assert both == pytest.approx(sum(parts) - Decode().fixed_ns, abs=2)
    assert both < attention().ns(tokens(640), tokens(0), kv)


@given(st.integers(1, 4000), st.integers(0, 4000), st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_one_more_decode_never_makes_a_batch_faster(chunk, context, kv):
    some = attention().ns(tokens(chunk), tokens(context), np.array(kv))
    more = attention().ns(tokens(chunk), tokens(context), np.array([*kv, 64]))
    assert attention().ns(tokens(chunk), tokens(context), NONE) <= some <= more

"""Specification of the KV pool: a fixed number of blocks, counted, never over-committed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.kv_cache import KvCache


def test_a_new_pool_is_free():
    pool = KvCache(capacity_blocks=10, block_size=16)
    assert (pool.free_blocks, pool.used_blocks, pool.peak_blocks) == (10, 0, 0)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (160, 10)])
def test_a_block_that_is_begun_counts_whole(tokens, blocks):
    assert KvCache(capacity_blocks=1, block_size=16).blocks_for(tokens) == blocks


def test_blocks_are_taken_and_given_back():
    pool = KvCache(capacity_blocks=10, block_size=16)
    pool.take(7)
    assert (pool.free_blocks, pool.used_blocks) == (3, 7)
    pool.give_back(5)
    assert (pool.free_blocks, pool.used_blocks) == (8, 2)


def test_all_blocks_can_be_taken():
    pool = KvCache(capacity_blocks=10, block_size=16)
    pool.take(10)
    assert pool.free_blocks == 0


def test_the_peak_is_the_most_blocks_ever_in_use():
    pool = KvCache(capacity_blocks=10, block_size=16)
    for taken, given_back in [(4, 1), (5, 8), (2, 2)]:
        pool.take(taken)
        pool.give_back(given_back)
    assert pool.peak_blocks == 8


def test_taking_more_than_is_free_is_an_error_that_takes_nothing():
    pool = KvCache(capacity_blocks=10, block_size=16)
    pool.take(8)
    with pytest.raises(RuntimeError, match=re.escape("KV pool over-committed: 3 blocks asked, 2 free")):
        pool.take(3)
    assert (pool.free_blocks, pool.peak_blocks) == (2, 8)


def test_giving_back_more_than_was_taken_is_an_error():
    pool = KvCache(capacity_blocks=10, block_size=16)
    pool.take(2)
    with pytest.raises(RuntimeError, match=re.escape("KV pool got back more blocks than it has: 11")):
        pool.give_back(3)


@given(st.integers(1, 50), st.lists(st.integers(0, 60), max_size=40))
def test_a_pool_never_lends_more_blocks_than_it_has(capacity, wishes):
    pool, lent = KvCache(capacity, block_size=1), []
    for wish in wishes:
        if wish <= pool.free_blocks:
            pool.take(wish)
            lent.append(wish)
        elif lent:
            pool.give_back(lent.pop())
        assert pool.used_blocks == sum(lent) <= pool.peak_blocks <= capacity  # INV-2

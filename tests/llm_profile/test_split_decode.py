"""Decode kernels that split keys: the published heuristic, and times computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_profile.hardware import DecodeSplits
from llm_profile.split_decode import SplitDecode, split_count, split_counts

C = DecodeSplits(tile_ns=100.0, combine_ns=2000.0, split_ns=10.0, copy_ns=3000.0)


def published_heuristic(tiles: int, slots: int, blocks: int) -> int:
    """The loop of FlashAttention 2, line by line."""
    if tiles >= 0.8 * slots:
        return 1
    efficiency, best = [], 0.0
    for splits in range(1, min(128, slots, blocks) + 1):
        if splits > 1 and math.ceil(blocks / splits) == math.ceil(blocks / (splits - 1)):
            efficiency.append(0.0)
            continue
        waves = tiles * splits / slots
        efficiency.append(waves / math.ceil(waves))
        best = max(best, efficiency[-1])
    return next(i for i, share in enumerate(efficiency, start=1) if share >= 0.85 * best)


@given(st.integers(1, 600), st.sampled_from([164, 216, 256, 284, 376]), st.integers(1, 300))
def test_splits_are_those_of_the_published_heuristic(tiles, slots, blocks):
    assert split_count(tiles, slots, blocks) == published_heuristic(tiles, slots, blocks)


def test_many_batches_are_split_as_one_by_one():
    tiles, blocks = np.array([8.0, 8.0, 320.0, 256.0, 8.0]), np.array([1.0, 9.0, 9.0, 9.0, 1.0])
    assert split_counts(tiles, 376, blocks).tolist() == [1, 9, 1, 5, 1]


def kernel(kv_heads: int = 8, sharpness: float = 1.0) -> SplitDecode:
    """100 multiprocessors: 200 slots. A tile takes 1 ns for a key."""
    return SplitDecode(C, 100, kv_heads, 128, 1.0, sharpness)


@pytest.mark.parametrize(("requests", "copies"), [(1, 0.0), (2, 3000.0)])
def test_one_block_of_keys_is_one_part_and_more_than_one_request_is_copied(requests, copies):
    """Added up (sharpness 1): the read, the start of a tile, 128 keys, and no combining."""
    ns = kernel().ns(requests, 500.0, 100, 100)
    assert ns == pytest.approx(500 + 100 + 128 + copies)


def test_one_kv_head_needs_no_copies():
    assert kernel(kv_heads=1).ns(2, 500.0, 100, 100) == pytest.approx(500 + 100 + 128)


def test_split_keys_are_walked_side_by_side_and_combined():
    """8 tiles of ten blocks: ten parts each, one block long."""
    assert kernel().ns(1, 500.0, 1280, 1280) == pytest.approx(500 + 100 + 128 + 2000 + 10 * 10)


def test_more_tiles_than_slots_run_in_waves_that_each_take_a_walk():
    """240 tiles on 200 slots, not split: two waves, of 200/240 and 40/240 of the read."""
    ns = kernel().ns(30, 6000.0, 1280, 1280)
    assert ns == pytest.approx(6000 + 2 * (100 + 1280) + 3000)
    sharp = kernel(sharpness=16.0).ns(30, 6000.0, 1280, 1280)
    assert sharp == pytest.approx(5000 + 1380 + 3000, rel=1e-3)  # the second wave is bound by its walk


def test_of_an_uneven_batch_only_the_last_wave_waits_for_the_longest_request():
    ns = kernel().ns(30, 6000.0, 1280, 12800)
    assert ns == pytest.approx(6000 + (100 + 1280) + (100 + 12800) + 3000)


def test_arrays_give_what_single_batches_give():
    requests, kv = np.array([1.0, 30.0, 64.0]), np.array([1280.0, 200.0, 5000.0])
    together = kernel(sharpness=2.0).ns(requests, requests * kv, kv, kv)
    single = [kernel(sharpness=2.0).ns(n, n * k, k, k) for n, k in zip(requests, kv, strict=True)]
    assert together.tolist() == pytest.approx(single)

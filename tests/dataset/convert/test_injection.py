"""Long prompts in traces that have none: how many, when, and what stays as it was; token ids of blocks."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.convert.injection import Share, Streams, classified, inject, with_fresh_blocks
from dataset.convert.token_ids import block_token_ids
from dataset.generate import token_counts
from dataset.workload import LONG, SHORT, WorkloadRequest

SHARES = (Share(0.02, 65_536), Share(0.05, 32_768))
TEN_THOUSAND = [WorkloadRequest(7 * number, 100, 10) for number in range(10_000)]


def put(requests: list[WorkloadRequest], *, add: bool, seed: int = 0) -> list[WorkloadRequest]:
    rng = Streams(*np.random.default_rng(seed).spawn(3))
    return inject(requests, SHARES, token_counts("uniform:200:300"), add=add, rng=rng)


@pytest.mark.parametrize("add", [False, True])
def test_longs_have_their_shares_lengths_and_class(add):
    longs = [one for one in put(TEN_THOUSAND, add=add) if one.request_class == LONG]
    for share in SHARES:
        count = sum(one.input_toks == share.tokens for one in longs)
        assert count == pytest.approx(10_000 * share.fraction, abs=3 * (10_000 * share.fraction) ** 0.5)
    assert {one.input_toks for one in longs} == {65_536, 32_768}
    assert min(one.output_toks for one in longs) == 200
    assert max(one.output_toks for one in longs) == 300


def test_replacing_keeps_number_and_arrivals_and_all_other_requests():
    after = put(TEN_THOUSAND, add=False)
    assert [one.arrival_ns for one in after] == [one.arrival_ns for one in TEN_THOUSAND]
    pairs = zip(after, TEN_THOUSAND, strict=True)
    assert all(one == before for one, before in pairs if one.request_class != LONG)


def test_adding_keeps_every_request_and_spreads_the_longs_over_the_whole_time():
    after = put(TEN_THOUSAND, add=True)
    assert [one for one in after if one.request_class != LONG] == TEN_THOUSAND
    times = [one.arrival_ns for one in after]
    assert times == sorted(times)
    longs = np.array([one.arrival_ns for one in after if one.request_class == LONG])
    assert longs.mean() == pytest.approx(TEN_THOUSAND[-1].arrival_ns / 2, rel=0.1)
    assert longs.std() == pytest.approx(TEN_THOUSAND[-1].arrival_ns / 12**0.5, rel=0.1)


def test_both_modes_inject_the_same_prompts_and_a_seed_fixes_them():
    def longs(add: bool, seed: int) -> list[tuple[int, int]]:
        made = [one for one in put(TEN_THOUSAND, add=add, seed=seed) if one.request_class == LONG]
        return sorted((one.input_toks, one.output_toks) for one in made)

    assert longs(add=True, seed=3) == longs(add=False, seed=3)
    assert longs(add=True, seed=3) != longs(add=True, seed=4)


def test_a_share_of_one_replaces_all():
    rng = Streams(*np.random.default_rng(0).spawn(3))
    after = inject(TEN_THOUSAND[:50], [Share(1, 9_000)], token_counts("5"), add=False, rng=rng)
    assert {(one.input_toks, one.output_toks) for one in after} == {(9_000, 5)}


def test_classes_follow_from_the_length_or_from_being_injected():
    requests = [WorkloadRequest(0, toks, 1) for toks in (99, 100)] + [WorkloadRequest(0, 5, 1, LONG)]
    assert [one.request_class for one in classified(requests, 100)] == [SHORT, LONG, LONG]
    assert [one.request_class for one in classified(requests, None)] == [SHORT, SHORT, LONG]


def test_injected_prompts_share_no_block():
    requests = [
        WorkloadRequest(0, 1_000, 1, blocks=(4, 9)),
        WorkloadRequest(0, 1_025, 1),
        WorkloadRequest(0, 1_000, 1, blocks=(4, 5)),
        WorkloadRequest(0, 1, 1),
    ]
    assert [one.blocks for one in with_fresh_blocks(requests, 512)] == [
        (4, 9),
        (10, 11, 12),
        (4, 5),
        (13,),
    ]


vocabularies = st.integers(2, 200)


@given(data=st.data(), vocabulary=vocabularies, block_toks=st.integers(2, 9))
def test_prompts_have_as_many_first_tokens_in_common_as_their_equal_blocks_hold(data, vocabulary, block_toks):
    block = st.integers(0, vocabulary**2 - 1)
    shared, rest_a, rest_b = (data.draw(st.lists(block, max_size=5)) for _ in range(3))
    if rest_a and rest_b and rest_a[0] == rest_b[0]:
        rest_b[0] = (rest_b[0] + 1) % vocabulary**2
    ids_a, ids_b = (
        block_token_ids(blocks, len(blocks) * block_toks, block_toks, vocabulary)
        for blocks in ([*shared, *rest_a], [*shared, *rest_b])
    )
    assert len(ids_a) == (len(shared) + len(rest_a)) * block_toks
    assert all(0 <= one < vocabulary for one in ids_a)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids_a, ids_b, strict=False)))
    assert common - len(shared) * block_toks in {0, 1}


def test_a_last_block_that_is_not_full_gives_fewer_ids():
    assert block_token_ids([7, 25], 6, 4, 10) == [7, 0, 7, 0, 5, 2]
    assert block_token_ids([7], 3, 3, 10) == [7, 0, 7]

"""Which rank sends which K and V heads where: every holder of a head gets it once, and the bytes add up."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.kv_transfer import HeadTransfer, head_transfers
from llm_profile.model_config import ModelConfig


def model_of(kv_heads: int, queries_per_head: int = 1, head_dim: int = 16) -> ModelConfig:
    heads = kv_heads * queries_per_head
    return ModelConfig(
        name="test",
        model_type="llama",
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=256,
        max_position_embeddings=64,
    )


def heads_of(model: ModelConfig, tp_size: int, rank: int) -> frozenset[int]:
    """The K/V heads that the attention heads of one rank read (grouped-query attention)."""
    queries = model.num_attention_heads // tp_size
    share = model.num_attention_heads // model.num_key_value_heads
    return frozenset(query // share for query in range(rank * queries, (rank + 1) * queries))


def tp_sizes(model: ModelConfig) -> list[int]:
    """Sizes over which the model can be split: whole attention heads, and whole K/V heads or whole copies."""
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    divisors = [size for size in range(1, heads + 1) if heads % size == 0]
    return [size for size in divisors if kv_heads % size == 0 or size % kv_heads == 0]


def with_sizes(model: ModelConfig) -> st.SearchStrategy[tuple[ModelConfig, int, int]]:
    sizes = st.sampled_from(tp_sizes(model))
    return st.tuples(st.just(model), sizes, sizes)


head_dims = st.sampled_from([1, 64, 128])
cases = st.builds(model_of, st.integers(1, 12), st.integers(1, 8), head_dims).flatmap(with_sizes)
copies_at_the_source = (
    st.builds(model_of, st.integers(1, 6), st.integers(2, 8))
    .flatmap(with_sizes)
    .map(lambda case: (case[0], case[0].num_attention_heads, case[2]))
)


@given(cases)
def test_every_head_reaches_every_rank_that_holds_it_exactly_once(case):
    model, source_tp, target_tp = case
    got: Counter[tuple[frozenset[int], int]] = Counter()
    for transfer in head_transfers(model, source_tp, target_tp):
        got[heads_of(model, source_tp, transfer.source_rank), transfer.target_rank] += transfer.heads
    wanted: Counter[tuple[frozenset[int], int]] = Counter()
    for held in {heads_of(model, source_tp, rank) for rank in range(source_tp)}:
        for target in range(target_tp):
            wanted[held, target] = len(held & heads_of(model, target_tp, target))
    assert got == wanted


@given(cases)
def test_a_pair_of_ranks_appears_once(case):
    model, source_tp, target_tp = case
    pairs = [(t.source_rank, t.target_rank) for t in head_transfers(model, source_tp, target_tp)]
    assert len(pairs) == len(set(pairs))


@given(cases, st.integers(1, 5000), st.sampled_from([8, 16, 32]))
def test_the_bytes_are_those_that_the_decode_ranks_keep(case, tokens, bits):
    model, source_tp, target_tp = case
    sent = sum(t.bytes_for(tokens, model, bits) for t in head_transfers(model, source_tp, target_tp))
    kept_heads = max(model.num_key_value_heads, target_tp)
    assert sent == kept_heads * 2 * model.head_dim * tokens * bits // 8


@given(copies_at_the_source)
def test_copies_of_a_head_share_the_sending_evenly(case):
    model, source_tp, target_tp = case
    sends = Counter(t.source_rank for t in head_transfers(model, source_tp, target_tp))
    for head in range(model.num_key_value_heads):
        load = [sends[r] for r in range(source_tp) if heads_of(model, source_tp, r) == {head}]
        assert max(load) - min(load) <= 1


@pytest.mark.parametrize(
    ("kv_heads", "source_tp", "target_tp", "expected"),
    [
        (8, 1, 1, [(0, 0, 8)]),
        (8, 2, 2, [(0, 0, 4), (1, 1, 4)]),
        (8, 2, 1, [(0, 0, 4), (1, 0, 4)]),
        (8, 1, 2, [(0, 0, 4), (0, 1, 4)]),
        (6, 3, 2, [(0, 0, 2), (1, 0, 1), (1, 1, 1), (2, 1, 2)]),
        (2, 1, 4, [(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 3, 1)]),
        (2, 4, 1, [(0, 0, 1), (2, 0, 1)]),
        (2, 4, 4, [(0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1)]),
        (1, 2, 4, [(0, 0, 1), (0, 2, 1), (1, 1, 1), (1, 3, 1)]),
    ],
)
def test_pairs_of_ranks_by_hand(kv_heads, source_tp, target_tp, expected):
    model = model_of(kv_heads, 12)
    assert head_transfers(model, source_tp, target_tp) == [HeadTransfer(*one) for one in expected]


@pytest.mark.parametrize(("bits", "expected"), [(8, 6400), (16, 12800), (32, 25600)])
def test_bytes_are_k_and_v_of_every_token(bits, expected):
    transfer = HeadTransfer(source_rank=0, target_rank=0, heads=2)
    assert transfer.bytes_for(100, model_of(4), bits) == expected  # 2 * 2 heads * 16 * 100 tokens

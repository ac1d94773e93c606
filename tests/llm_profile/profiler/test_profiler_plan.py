"""The sampling plan: what is measured for which tables."""

import pytest
from fake_measurer import TINY, TINY_MOE
from hypothesis import given
from hypothesis import strategies as st

from llm_profile.profiler.plan import Grid, Kind, Layout, Part, ladder, plan

GRID = Grid(max_tokens=64, max_seqs=8, max_context=128, max_batch_kv=600)


def kinds(points):
    return {point.kind for point in points}


@given(st.integers(1, 300), st.integers(0, 5000), st.floats(0.2, 8))
def test_a_ladder_climbs_from_its_first_to_its_last_number(first, more, density):
    steps = ladder(first, first + more, density)
    assert steps[0] == first
    assert steps[-1] == first + more
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("model", [TINY, TINY_MOE], ids=["dense", "moe"])
def test_the_two_parts_together_are_all_of_it(model, layout):
    every = plan(model, GRID, layout, Part.ALL)
    halves = [point for part in (Part.LAYERS, Part.ATTENTION) for point in plan(model, GRID, layout, part)]
    assert set(every) == set(halves)
    assert len(set(every)) == len(every)


def test_v1_tables_want_separate_layers_and_no_mixed_or_uneven_batches():
    points = plan(TINY, GRID, Layout.V1, Part.ALL)
    assert kinds(points) == {Kind.SPLIT_LAYERS, Kind.SEQUENCES, Kind.ATTENTION}
    assert not [p for p in points if p.kind == Kind.ATTENTION and p.key[0] and p.key[2]]


def test_bundles_want_fused_layers_mixed_batches_chunks_on_a_history_and_uneven_decodes():
    points = plan(TINY, GRID, Layout.BUNDLE, Part.ALL)
    assert kinds(points) == {Kind.FUSED_LAYERS, Kind.SEQUENCES, Kind.ATTENTION, Kind.SKEW}
    attention = [p.key for p in points if p.kind == Kind.ATTENTION]
    assert any(chunk and requests for chunk, _, requests, _ in attention)
    assert any(chunk and context for chunk, context, _, _ in attention)
    assert any(p.key[0] for p in points if p.kind == Kind.SKEW)


def test_without_skew_no_uneven_batch_is_measured():
    grid = Grid(max_tokens=64, max_seqs=8, max_context=128, skew=False)
    assert Kind.SKEW not in kinds(plan(TINY, grid, Layout.BOTH, Part.ALL))


def test_experts_are_measured_from_one_tokens_choice_to_all_of_them():
    keys = [p.key for p in plan(TINY_MOE, GRID, Layout.BUNDLE, Part.ALL) if p.kind == Kind.MOE]
    assert (1, 2) in keys
    assert (64, 8) in keys
    assert all(2 <= experts <= min(8, 2 * tokens) for tokens, experts in keys)


@given(
    tokens=st.integers(1, 300),
    seqs=st.integers(1, 64),
    context=st.integers(1, 2000),
    spare=st.integers(0, 5000),
)
def test_no_batch_holds_more_kv_than_allowed(tokens, seqs, context, spare):
    grid = Grid(tokens, seqs, context, tokens + context + spare, density=1)
    for point in plan(TINY, grid, Layout.BOTH, Part.ATTENTION):
        if point.kind == Kind.ATTENTION:
            chunk, history, requests, kv = point.key
        else:
            chunk, history, requests, _, short, kv = point.key
            assert short < kv or kv == 1
        assert chunk + history + requests * kv <= grid.max_batch_kv
        assert chunk <= tokens
        assert requests <= seqs
        assert max(history, kv) <= context

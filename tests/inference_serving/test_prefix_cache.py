"""Prefix caching: blocks found by content, shared by users, overwritten least recently used first."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from clusters import LinearLatency, instance, make_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.dataset import read_dataset
from inference_serving.output import RunResult, collect
from inference_serving.policies import prefill_policy_names
from inference_serving.prefix_cache import PrefixKvCache, block_hashes
from inference_serving.request import Request
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference")
BLOCK = 4


def a_request(number: int, ids: list[int], output: int = 1) -> Request:
    return Request(number, 0, len(ids), output, token_ids=ids)


def admit(pool: PrefixKvCache, request: Request) -> int:
    """Start a request and compute its whole prompt; returns the tokens found."""
    pool.claim(request)
    found = request.computed
    more = pool.blocks_for(request.prompt_tokens) - request.blocks
    pool.take(more)
    request.blocks += more
    request.computed = request.prompt_tokens
    pool.remember(request, request.prompt_tokens)
    return found


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_hashes_are_equal_exactly_as_far_as_the_contents_are(one, two, block_size):
    common = 0
    for left, right in zip(one, two, strict=False):
        if left != right:
            break
        common += 1
    hashes = zip(block_hashes(one, block_size), block_hashes(two, block_size), strict=False)
    assert [left == right for left, right in hashes].count(True) == common // block_size


def test_a_second_request_finds_the_blocks_that_it_shares_and_computes_a_token_at_least():
    pool = PrefixKvCache(10, BLOCK)
    assert admit(pool, a_request(0, list(range(8)))) == 0
    assert admit(pool, a_request(1, [0, 1, 2, 3, 9, 9, 9])) == 4
    assert admit(pool, a_request(2, list(range(8)))) == 4  # all 8 are here, but something has to be computed
    assert (pool.statistics.queried_tokens, pool.statistics.hit_tokens) == (23, 8)


def test_a_shared_block_takes_memory_once():
    pool = PrefixKvCache(10, BLOCK)
    first, second = a_request(0, list(range(12))), a_request(1, list(range(12)))
    admit(pool, first)
    admit(pool, second)
    assert (first.blocks, second.blocks, pool.used_blocks) == (3, 3, 4)
    pool.release(first)
    assert pool.used_blocks == 3
    pool.release(second)
    assert pool.used_blocks == 0


def test_unused_contents_are_overwritten_least_recently_used_first_and_the_tail_before_the_head():
    pool = PrefixKvCache(4, BLOCK)
    old, young = a_request(0, list(range(8))), a_request(1, list(range(100, 108)))
    for request in (old, young):
        admit(pool, request)
    for request in (old, young):
        pool.release(request)
    pool.take(1)  # the tail of the older one goes
    assert pool.match(a_request(2, [*range(8), 1])).blocks == 1
    assert pool.match(a_request(3, [*range(100, 108), 1])).blocks == 2
    pool.take(2)
    assert pool.match(a_request(2, [*range(8), 1])).blocks == 0
    assert pool.match(a_request(3, [*range(100, 108), 1])).blocks == 1


def test_generated_tokens_can_be_found_by_the_next_turn():
    pool = PrefixKvCache(20, BLOCK)
    turn = a_request(0, [1, 2, 3, 4, 5, 6], output=6)
    turn.token_ids = [*turn.token_ids, 7, 8, 9, 10, 11, 12]
    admit(pool, turn)
    pool.take(1)
    turn.blocks, turn.computed = 3, 11  # the last token has no KV
    pool.release(turn)
    assert pool.match(a_request(1, [*range(1, 13), 50])).blocks == 2


def run(folder, specs, kinds=((1, None),), **extra) -> tuple[RunResult, Simulation]:
    sections = [instance(folder, *kind, enable_prefix_caching=True, **extra) for kind in kinds]
    cluster = make_cluster(folder, sections)
    latencies = {spec.instance_id: LinearLatency() for spec in cluster.instances}
    simulation = Simulation(cluster, specs, SimulationConfig(), latencies)
    simulation.run()
    return collect(cluster, simulation), simulation


prompts = st.lists(
    st.tuples(
        st.integers(0, 80_000),
        st.lists(st.integers(0, 1), min_size=1, max_size=12),
        st.integers(1, 20),
        st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


def specs_of(workload) -> list[RequestSpec]:
    """Prompts are runs of 30 tokens chosen from two, so that many share a prefix; some name their output."""
    at_ns, specs = 0, []
    for number, (gap_ns, runs, output, named) in enumerate(workload):
        at_ns += gap_ns
        ids = tuple(30 * which + place for which in runs for place in range(30))
        named_ids = tuple(range(output)) if named else None
        specs.append(RequestSpec(number, at_ns, len(ids), output, 0, ids, named_ids))
    return specs


@settings(max_examples=60)
@given(
    prompts,
    st.sampled_from(["fcfs", "priority", *prefill_policy_names()]),
    st.sampled_from([((1, None),), ((1, "prefill"), (2, "decode"))]),
    st.sampled_from([450, 4096]),
)
def test_blocks_are_conserved_and_every_request_finishes(
    tmp_path_factory, workload, policy, kinds, kv_tokens
):
    folder = tmp_path_factory.mktemp("prefix")
    limits = {"scheduling_policy": policy, "max_num_batched_tokens": 64, "block_size": 4}
    result, simulation = run(folder, specs_of(workload), kinds, kv_tokens=kv_tokens, **limits)
    assert len(result.metrics) == len(workload)
    for served in simulation.instances.values():
        assert served.kv_cache.used_blocks == 0
        assert served.kv_cache.cached_blocks <= served.kv_cache.capacity_blocks


def hits_of_an_unlimited_cache(specs: list[RequestSpec], block_size: int) -> int:
    """Tokens found if prompts come one after the other and nothing is ever forgotten."""
    seen, hits = set(), 0
    for spec in specs:
        ids = spec.input_token_ids
        ends = range(block_size, len(ids) + 1, block_size)
        found = 0
        while (found + 1) * block_size < len(ids) and ids[: (found + 1) * block_size] in seen:
            found += 1
        hits += found * block_size
        seen.update(ids[:end] for end in ends)
    return hits


@settings(max_examples=40)
@given(prompts)
def test_with_memory_for_all_hits_are_those_of_an_unlimited_cache(tmp_path_factory, workload):
    folder = tmp_path_factory.mktemp("prefix")
    specs = specs_of([(gap, runs, output, False) for gap, runs, output, _ in workload])
    result, simulation = run(folder, specs, block_size=4, kv_tokens=60_000)
    expected = hits_of_an_unlimited_cache(specs, 4)
    assert simulation.instances[0].kv_cache.statistics.hit_tokens == expected
    assert sum(one.request.prefix_hit_tokens for one in result.metrics) == expected


def test_a_hit_saves_its_tokens_but_not_the_reading_of_their_keys(tmp_path):
    ids = tuple(range(64))
    specs = [RequestSpec(0, 0, 64, 1, 0, ids), RequestSpec(1, 10**9, 64, 1, 0, ids)]
    result, _ = run(tmp_path, specs, block_size=16)
    second = result.metrics[1].ttft_ns
    dense = 24 * (1000 + 10 * 16) + 1010
    assert second == dense + 2 * (500 + 16 * (48 + 16))


@pytest.mark.skipif(not REFERENCE.exists(), reason="reference data is not beside the project")
@pytest.mark.parametrize("name", ["sharegpt_pulse_req50_n6_delay15_pc", "prefix_pool_stress"])
def test_hits_on_recorded_prompts_are_those_of_an_unlimited_cache(tmp_path, name):
    specs = [
        RequestSpec(one.request_id, one.arrival_ns, one.input_tokens, 1, 0, one.input_token_ids)
        for one in read_dataset(REFERENCE / "datasets" / f"{name}.jsonl", keep_token_ids=True)
    ]
    _, simulation = run(tmp_path, specs, block_size=16, kv_tokens=2_000_000, max_num_batched_tokens=8192)
    expected = hits_of_an_unlimited_cache(specs, 16)
    assert simulation.instances[0].kv_cache.statistics.hit_tokens == expected > 0


@pytest.mark.skipif(not REFERENCE.exists(), reason="reference data is not beside the project")
def test_the_hit_ratio_of_the_mooncake_conversations_is_the_published_one():
    """0.374 with an unlimited cache and the trace's blocks of 512 tokens (Mooncake, FAST'25)."""
    trace = REFERENCE / "traces" / "mc_conv.jsonl"
    pool = PrefixKvCache(10**9, 512)
    for number, line in enumerate(trace.read_text().splitlines()):
        record = json.loads(line)
        request = Request(number, 0, record["input_length"], 1, token_ids=[0])
        request.block_hashes = [np.int64(name).tobytes() for name in record["hash_ids"]]
        request.hashed_block_size = 512
        admit(pool, request)
    assert pool.statistics.hit_ratio == pytest.approx(0.374, abs=0.005)

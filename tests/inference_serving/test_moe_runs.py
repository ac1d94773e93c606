"""Mixture of experts in the serving loop: closed forms of an iteration, its bytes, and whole runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clusters import make_cluster, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_clusters import (
    BLOCKS,
    EXPERTS,
    HIDDEN,
    MOE_BLOCK,
    PER_TOKEN,
    WIDTH,
    MoeLatency,
    expert_ns,
    moe_instance,
)
from test_trace_generator import batch, published, without_time

from astra_sim import CollectiveKind, NodeKind
from inference_serving.gate_function import Balanced, ExpertRouting, Random
from inference_serving.graph_generator import build_graphs
from inference_serving.host_overhead import HostOverhead
from inference_serving.layer_group import LayerGroup, layer_groups
from inference_serving.output import collect
from inference_serving.prefill_costs import PrefillCosts, SerialTimes
from inference_serving.request import Batch
from inference_serving.settings import SimulationConfig
from inference_serving.trace import Trace
from inference_serving.trace_dump import trace_text
from inference_serving.trace_generator import TraceGenerator
from llm_profile.latency import Source

PHI = "microsoft/Phi-mini-MoE-instruct"


class OneExpert:
    """All tokens at the first experts."""

    draws = 1
    repeatable = True

    def counts(self, tokens: int) -> np.ndarray:
        return np.array([[tokens] * PER_TOKEN + [0] * (EXPERTS - PER_TOKEN)])


def spec_of(folder: Path, npus: int = 1, **extra):
    return make_cluster(folder, [moe_instance(folder, npus, **extra)]).instances[0]


def trace_of(spec, work: Batch, routing: ExpertRouting | None = None) -> Trace:
    return TraceGenerator(spec, MoeLatency(), routing).synthesize_trace(work, {}, {})


def alone_ns(folder: Path, tokens: int, npus: int = 1, **extra) -> int:
    """Time of a prompt alone with one output token."""
    cluster = make_cluster(folder, [moe_instance(folder, npus, **extra)])
    (request,) = simulate(cluster, requests((tokens, 1)), latency=MoeLatency()).finished
    return request.end_ns


def layers_ns(tokens: int, experts_ns: int) -> int:
    """Every layer of an iteration of one prompt: 8 dense layers and the router, attention, experts; 3 outside."""
    dense_ns = 1000 + 10 * tokens
    return BLOCKS * (8 * dense_ns + 500 + tokens**2 + experts_ns) + 2 * dense_ns + 1010


def test_rows_of_a_block_end_in_the_router_and_the_experts(tmp_path):
    rows = trace_of(spec_of(tmp_path), batch((10, 0))).shape.rows
    assert [row.layer for row in rows] == ["embedding", *MOE_BLOCK * BLOCKS, "final_layernorm", "lm_head"]


def test_a_prompt_alone_takes_its_layers_with_balanced_experts(tmp_path):
    """20 tokens at 2 of 8 experts each: 5 an expert, all 8 at work; and token ids from and to the host."""
    host_ns = alone_ns(tmp_path, 20) - layers_ns(20, 8 * 300 + 40 * 7)
    assert 0 <= host_ns <= 2


def test_experts_without_tokens_cost_nothing(tmp_path):
    spec = spec_of(tmp_path)
    times = {trace_of(spec, batch((20, 0)), routing).durations_ns[-1] for routing in (None, OneExpert())}
    assert times == {8 * 300 + 280, 2 * 300 + 280}


def test_under_expert_parallelism_each_rank_takes_the_time_of_its_own_experts(tmp_path):
    spec = spec_of(tmp_path, 4, ep_size=4)
    even, one = (trace_of(spec, batch((20, 0)), routing).durations_ns[-4:] for routing in (None, OneExpert()))
    assert even.tolist() == [2 * 300 + 10 * 7] * 4
    assert one.tolist() == [2 * 300 + 40 * 7, 0, 0, 0]


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(0, 9))
def test_ranks_together_have_every_assignment_and_the_busiest_sets_the_all_to_all(
    tmp_path_factory, tokens, seed
):
    spec = spec_of(tmp_path_factory.mktemp("moe"), 4, ep_size=4)
    trace = trace_of(spec, batch((tokens, 0)), Random(EXPERTS, PER_TOKEN, np.random.default_rng(seed)))
    assert trace.experts is not None
    by_rank = trace.experts.assignments.reshape(-1, 4)
    assert by_rank.sum(axis=1).tolist() == [tokens * PER_TOKEN] * Random.draws
    sizes = [int(trace.sizes[trace.shape.all_to_all_slot(draw)]) for draw in range(Random.draws)]
    sent = -(-tokens // 4) * PER_TOKEN
    assert sizes == [max(received, sent) * HIDDEN * 2 for received in by_rank.max(axis=1).tolist()]


def collectives(spec, routing: ExpertRouting | None = None) -> list[tuple[CollectiveKind, int]]:
    """Kinds and sizes of one block's collectives for 20 tokens."""
    trace = trace_of(spec, batch((20, 0)), routing)
    found = {
        tuple(
            (node.collective, int(trace.sizes[node.size_slot]))
            for node in graph.nodes
            if node.kind is NodeKind.COLL
        )
        for graph in build_graphs(trace.shape)
    }
    (every_rank,) = found
    assert len(every_rank) % BLOCKS == 0
    assert every_rank == every_rank[: len(every_rank) // BLOCKS] * BLOCKS
    return list(every_rank[: len(every_rank) // BLOCKS])


def test_split_experts_end_in_an_all_reduce_of_the_hidden_states(tmp_path):
    reduced = (CollectiveKind.ALL_REDUCE, 20 * HIDDEN * 2)
    assert collectives(spec_of(tmp_path, 4)) == [reduced, reduced]
    assert collectives(spec_of(tmp_path, 1)) == []


def test_whole_experts_are_between_two_all_to_alls_and_all_tokens_are_gathered_then(tmp_path):
    """40 assignments over 4 ranks; each rank owns 5 of the 20 tokens."""
    spec = spec_of(tmp_path, 4, ep_size=4)
    row = HIDDEN * 2
    assert collectives(spec) == [
        (CollectiveKind.ALL_REDUCE, 20 * row),
        (CollectiveKind.ALL_TO_ALL, 10 * row),
        (CollectiveKind.ALL_TO_ALL, 10 * row),
        (CollectiveKind.ALL_GATHER, 5 * row),
    ]
    assert collectives(spec, OneExpert())[1:3] == [(CollectiveKind.ALL_TO_ALL, 40 * row)] * 2


def test_the_next_layer_waits_for_the_slowest_rank(tmp_path):
    """With one rank's experts at work, an iteration takes as much longer as that rank does."""
    cluster = make_cluster(tmp_path, [moe_instance(tmp_path, 4, ep_size=4)])
    ends = []
    for factor in (1, 1000):
        trace = trace_of(cluster.instances[0], batch((20, 0)), OneExpert())
        trace.durations_ns[-4] *= factor
        before_ns = BLOCKS * int(trace.durations_ns[-4])
        ends.append(SerialTimes(cluster).ns(trace) + before_ns)
    assert ends[1] - ends[0] == BLOCKS * 999 * (2 * 300 + 40 * 7)


@pytest.mark.parametrize(("npus", "ep_size"), [(1, 1), (2, 1), (4, 1), (4, 4)])
def test_a_batch_of_prompts_takes_what_was_predicted(tmp_path, npus, ep_size):
    cluster = make_cluster(tmp_path, [moe_instance(tmp_path, npus, ep_size=ep_size)])
    costs = PrefillCosts(cluster.instances[0], MoeLatency(), HostOverhead(700, 50), SerialTimes(cluster).ns)
    config = SimulationConfig(step_overhead_ns=700)
    finished = simulate(cluster, requests((10, 1), (33, 1), (7, 1)), config, latency=MoeLatency()).finished
    assert {one.end_ns for one in finished} == {costs.batch_ns([(10, 0), (33, 0), (7, 0)])}
    parts = [costs.group_ns(64, 5, group, BLOCKS) for group in range(BLOCKS)]
    assert sum(parts) == costs.batch_ns([(64, 5)]) + 50 * (BLOCKS - 1)


@pytest.mark.parametrize("ep_size", [1, 2])
def test_layer_groups_are_slices_of_the_iteration(tmp_path, ep_size):
    spec = spec_of(tmp_path, 2, ep_size=ep_size)
    routing = Random(EXPERTS, PER_TOKEN, np.random.default_rng(0))
    whole = trace_of(spec, batch((10, 0)), routing).shape.rows
    parts: list[LayerGroup] = list(layer_groups(BLOCKS, BLOCKS))
    cut = [
        row
        for part in parts
        for row in trace_of(spec, Batch(*_arrays(10), 10, 10, 1, part), routing).shape.rows
    ]
    assert tuple(cut) == whole
    assert [row.draw for row in whole if row.layer == "experts"] == [0, 1, 2]


def _arrays(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([tokens]), np.array([0])


def test_weights_of_experts_are_shared_by_the_ranks_either_way(tmp_path):
    split, spread = spec_of(tmp_path, 4), spec_of(tmp_path, 4, ep_size=4)
    assert split.memory == spread.memory
    experts = BLOCKS * EXPERTS * 3 * HIDDEN * WIDTH
    attention, norms, router = 4 * HIDDEN * HIDDEN, 2 * HIDDEN, HIDDEN * EXPERTS
    one_rank = experts // 4 + BLOCKS * (attention // 4 + norms + router) + 2 * 64 * HIDDEN + HIDDEN
    assert spread.memory.weight_bytes == 2 * one_rank


def test_experts_have_their_part_in_the_provenance(tmp_path):
    cluster = make_cluster(tmp_path, [moe_instance(tmp_path)])
    simulation = simulate(cluster, requests((20, 1)), latency=MoeLatency())
    shares = collect(cluster, simulation).summary.instances[0].provenance
    experts_ns = 8 * 300 + 280
    assert shares[Source.MEASURED] == pytest.approx(BLOCKS * experts_ns / layers_ns(20, experts_ns))


@pytest.mark.parametrize("policy", ["FAST", "RR", "RAND", "POWERLAW"])
@pytest.mark.parametrize(("npus", "ep_size"), [(1, 1), (4, 4)])
def test_every_request_is_served_and_a_run_repeats_itself(tmp_path, policy, npus, ep_size):
    roles = [moe_instance(tmp_path, npus, role, ep_size=ep_size) for role in ("prefill", "decode")]
    cluster = make_cluster(tmp_path, roles)
    config = SimulationConfig(expert_routing_policy=policy, seed=7)
    work = requests((30, 5), (200, 9), (1, 1), (64, 3), gap_ns=20_000)
    runs = [simulate(cluster, work, config, latency=MoeLatency()) for _ in range(2)]
    ends = [{one.request_id: one.end_ns for one in run.finished} for run in runs]
    assert len(ends[0]) == 4
    assert ends[0] == ends[1]


def phi(folder: Path, npus: int, **extra):
    memory = {"npu_mem": {"mem_size": 40, "mem_bw": 768}}
    section = moe_instance(folder, npus, **extra) | {"model_name": PHI} | memory
    return make_cluster(folder, [section]).instances[0]


def test_the_text_trace_has_a_section_for_each_rank_of_experts(tmp_path):
    trace = trace_of(phi(tmp_path, 2, ep_size=2), batch((10, 0)))
    lines = trace_text(trace.shape.instance, trace.rows()).splitlines()
    assert lines[1] == "451" == str(len(lines) - 3)
    block = [line.split()[0] if "EXPERT" not in line else line for line in lines[12:18]]
    assert block == ["gate_9", "EXPERT 0", "expert_11", "EXPERT 1", "expert_13", "EXPERT END"]
    assert Counter(line for line in lines if "EXPERT" in line) == {
        "EXPERT 0": 32,
        "EXPERT 1": 32,
        "EXPERT END": 32,
    }


@pytest.mark.parametrize(("name", "npus"), [("moe", 1), ("moe_ep2", 2)])
def test_rows_are_those_of_the_published_trace_up_to_the_experts(tmp_path, name, npus):
    """Names and sections agree, and bytes do where the published program is right."""
    lines = published(name)
    spec = phi(tmp_path, npus, ep_size=npus)
    rows = list(trace_of(spec, batch((10, 0))).rows())
    assert lines[1] == [trace_text(spec, rows).splitlines()[1]]
    theirs = {line[0]: line for line in lines[3:] if line[0] != "EXPERT"}
    mine = {row.name: without_time(row) for row in rows if row.name in theirs}
    assert list(mine) == list(theirs)
    for one in ("rope_5", "attn_6", "gate_9"):
        assert mine[one] == [theirs[one][0], *theirs[one][2:]]


def test_expert_rows_count_the_tokens_that_came(tmp_path):
    """10 tokens at 2 experts each through three matrices; the published program counts experts without any as one."""
    trace = trace_of(phi(tmp_path, 1), batch((10, 0)), Balanced(16, 2, np.random.default_rng(0)))
    row = next(row for row in trace.rows() if row.expert is not None)
    assert row.input_bytes == 2 * 20 * (2 * 4096 + 960)
    assert row.output_bytes == 2 * 20 * (2 * 960 + 4096)
    assert row.weight_bytes == 2 * 16 * 3 * 4096 * 960
    assert row.comp_ns == expert_ns(np.array([20])) + 15 * 300

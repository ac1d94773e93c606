"""Data-parallel groups: waves of one iteration each, dummy batches, shared experts, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusters import instance, make_cluster, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_clusters import BLOCKS, EXPERTS, HIDDEN, PER_TOKEN, MoeLatency, expert_ns, moe_instance

from astra_sim import CollectiveKind, NodeKind
from astra_sim.input_error import InputError
from inference_serving.experts.wave import DUMMY_WORK, WaveTraces, predicted_waves
from inference_serving.gate_function import Balanced
from inference_serving.graph_generator import build_wave_graphs
from inference_serving.host_overhead import HostOverhead
from inference_serving.memory_model import plan_memory
from inference_serving.prefill_costs import PrefillCosts, SerialTimes
from inference_serving.request import Batch
from inference_serving.settings import DumpSettings, SchedulerSettings, SimulationConfig
from inference_serving.trace import Trace
from inference_serving.trace_generator import TraceGenerator


def group_of(folder: Path, members: int = 2, npus: int = 1, ep_size: int | None = None, **extra):
    ep_size = members * npus if ep_size is None else ep_size
    one = moe_instance(folder, npus, ep_size=ep_size, dp_group="A", **extra)
    return make_cluster(folder, [one] * members)


def prompt(tokens: int) -> Batch:
    return Batch(np.array([tokens]), np.array([0]), tokens, tokens, 1)


def routing() -> Balanced:
    return Balanced(EXPERTS, PER_TOKEN, np.random.default_rng(0))


def traces_of(cluster, *batches: Batch) -> list[Trace]:
    generators = [TraceGenerator(spec, MoeLatency()) for spec in cluster.instances]
    return WaveTraces.of(generators, MoeLatency(), routing()).synthesize(batches)


class Seen:
    """Who ran how many tokens from when on, iteration by iteration."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int, int]] = []
        self.ends: list[tuple[int, int]] = []

    def on_submit(self, instance, trace, ticket) -> None:
        self.starts.append((ticket, instance.instance_id, trace.tokens))

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        self.ends.append((now_ns, instance.instance_id))


def test_who_has_nothing_to_do_runs_a_dummy_token_and_all_end_together(tmp_path):
    seen = Seen()
    run = simulate(group_of(tmp_path), requests((10, 3)), observers=[seen], latency=MoeLatency())
    assert seen.starts == [(0, 0, 10), (0, 1, 1), (1, 0, 1), (1, 1, 1), (2, 0, 1), (2, 1, 1)]
    assert [instance for _, instance in seen.ends] == [0, 1] * 3
    assert len({end for end, _ in seen.ends}) == 3
    assert [one.iterations for one in run.instances.values()] == [3, 0]


def test_a_request_that_comes_during_a_wave_starts_with_the_next(tmp_path):
    seen = Seen()
    simulate(
        group_of(tmp_path), requests((100, 1), (10, 1), gap_ns=10), observers=[seen], latency=MoeLatency()
    )
    assert seen.starts == [(0, 0, 100), (0, 1, 1), (1, 0, 1), (1, 1, 10)]


def test_the_experts_of_all_ranks_get_the_tokens_of_all_instances(tmp_path):
    """15 + 1 tokens at 2 of 8 experts each over 4 ranks: 4 tokens at each of a rank's 2 experts."""
    traces = traces_of(group_of(tmp_path, npus=2), prompt(15), DUMMY_WORK)
    for trace in traces:
        assert trace.durations_ns[-2:].tolist() == [expert_ns(np.array([4, 4]))] * 2


def test_an_all_to_all_spans_the_group_and_everything_else_an_instance(tmp_path):
    """The busiest rank sends what it owns, 8 of 15 tokens, twice; a rank gets 8 assignments."""
    traces = traces_of(group_of(tmp_path, npus=2), prompt(15), DUMMY_WORK)
    graphs = build_wave_graphs([(trace.shape, len(trace.durations_ns)) for trace in traces])
    sizes = np.concatenate([trace.sizes for trace in traces])
    row = HIDDEN * 2
    for rank, graph in enumerate(graphs):
        found = [node for node in graph.nodes if node.kind is NodeKind.COLL][:4]
        own, tokens = ((0, 1), 15) if rank < 2 else ((2, 3), 1)
        assert [(node.collective, node.group, int(sizes[node.size_slot])) for node in found] == [
            (CollectiveKind.ALL_REDUCE, own, tokens * row),
            (CollectiveKind.ALL_TO_ALL, (0, 1, 2, 3), 16 * row),
            (CollectiveKind.ALL_TO_ALL, (0, 1, 2, 3), 16 * row),
            (CollectiveKind.ALL_GATHER, own, -(-tokens // 2) * row),
        ]


def test_instances_of_one_npu_gather_nothing(tmp_path):
    traces = traces_of(group_of(tmp_path), prompt(15), DUMMY_WORK)
    graphs = build_wave_graphs([(trace.shape, len(trace.durations_ns)) for trace in traces])
    kinds = [node.collective for node in graphs[0].nodes if node.kind is NodeKind.COLL]
    assert kinds == [CollectiveKind.ALL_TO_ALL] * 2 * BLOCKS


def test_a_rank_stores_its_share_of_the_groups_experts(tmp_path):
    spec = group_of(tmp_path, members=4).instances[0]
    plan = plan_memory(spec.model, 1, spec.precision, 16, 1.0, 0.9)
    experts_bytes = 2 * BLOCKS * EXPERTS * 3 * HIDDEN * spec.model.moe_intermediate_size
    assert plan.weight_bytes - spec.memory.weight_bytes == experts_bytes * 3 // 4


@pytest.mark.parametrize(("npus", "ep_size"), [(1, 2), (2, 4), (2, 2), (2, 1), (1, 1)])
def test_a_prompt_takes_what_was_predicted_with_dummies_beside_it(tmp_path, npus, ep_size):
    cluster = group_of(tmp_path, npus=npus, ep_size=ep_size)
    serial = SerialTimes(cluster)
    waves = predicted_waves(cluster.instances, MoeLatency(), routing(), serial)
    costs = PrefillCosts(
        cluster.instances[0], MoeLatency(), HostOverhead(700, 50), serial.ns, routing(), waves[0]
    )
    run = simulate(cluster, requests((150, 1)), SimulationConfig(step_overhead_ns=700), latency=MoeLatency())
    assert run.finished[0].end_ns == costs.batch_ns([(150, 0)])


lengths = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 6)), min_size=1, max_size=12)


@settings(max_examples=25)
@given(
    lengths,
    st.sampled_from([(1, 1), (1, 2), (2, 4), (2, 2)]),
    st.sampled_from(["FAST", "RR", "RAND", "POWERLAW"]),
    st.integers(0, 100_000),
)
def test_groups_never_hang_whatever_the_load(tmp_path_factory, work, sizes, policy, gap_ns):
    npus, ep_size = sizes
    cluster = group_of(tmp_path_factory.mktemp("dp"), npus=npus, ep_size=ep_size)
    config = SimulationConfig(
        SchedulerSettings(max_num_batched_tokens=64), expert_routing_policy=policy, seed=1
    )
    run = simulate(cluster, requests(*work, gap_ns=gap_ns), config, latency=MoeLatency())
    assert len(run.finished) == len(work)
    assert all(one.kv_cache.used_blocks == 0 for one in run.instances.values())


def test_ranks_of_a_dense_model_run_each_for_itself(tmp_path):
    """They share nothing: a run with a group and one without are the same, and the group may be of any kind."""
    alone = [instance(tmp_path), instance(tmp_path, 2)]
    grouped = [one | {"dp_group": "A"} for one in alone]
    ends = [
        [
            one.end_ns
            for one in simulate(make_cluster(tmp_path, sections), requests((40, 9), (7, 30))).finished
        ]
        for sections in (alone, grouped)
    ]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("first", "changes", "config", "message"),
    [
        ({}, {"npu_num": 2}, {}, "its instances must have the same NPUs"),
        ({}, {"kv_cache_dtype": "fp8"}, {}, "must have the same dtype and kv_cache_dtype"),
        (
            {"pd_type": "prefill"},
            {"pd_type": "decode"},
            {},
            "data parallelism with pd_type is not supported yet",
        ),
        (
            {},
            {},
            {"scheduler": SchedulerSettings(async_scheduling=True)},
            "data parallelism with asynchronous scheduling is not supported yet",
        ),
        ({}, {}, {"dump": DumpSettings(Path(), frozenset())}, "with --dump-traces is not supported yet"),
        ({}, {}, {"engine_binary": Path("x")}, "needs this project's engine"),
        ({}, {}, {"prefix_storage": "cpu"}, "--prefix-storage is not supported yet for data-parallel groups"),
    ],
)
def test_what_has_no_waves_is_refused(tmp_path, first, changes, config, message):
    one = moe_instance(tmp_path, dp_group="A", **first)
    with pytest.raises(InputError, match=message):
        make_cluster(tmp_path, [one, {**one, **changes}], replace(SimulationConfig(), **config))


def test_experts_over_some_of_a_group_are_refused(tmp_path):
    with pytest.raises(InputError, match="of its dp_group \\(8\\); use one of 1, 2, 8"):
        group_of(tmp_path, members=4, npus=2, ep_size=4)

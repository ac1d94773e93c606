"""The head-of-line-aware scheduler: a prefill policy beside decodes, under KV blocks and layer groups."""

from __future__ import annotations

import pytest
from clusters import LinearLatency, instance, make_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.hol_scheduler import ActivationBlocks, HolScheduler
from inference_serving.output import collect
from inference_serving.policies import prefill_policy_names
from inference_serving.request_csv import csv_text
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation

COLOCATED = [(1, None)]
SPLIT = [(1, "prefill"), (2, "decode")]
workloads = st.lists(
    st.tuples(st.integers(0, 100_000), st.integers(1, 900), st.integers(1, 25)), min_size=1, max_size=14
)


def specs_of(workload) -> list[RequestSpec]:
    at_ns, specs = 0, []
    for number, (gap_ns, prompt, output) in enumerate(workload):
        at_ns += gap_ns
        specs.append(RequestSpec(number, at_ns, prompt, output))
    return specs


class Batches:
    """Notes every batch and checks what no batch may break."""

    def __init__(self) -> None:
        self.seen = []

    def on_submit(self, served, trace, ticket) -> None:
        self.seen.append((served.instance_id, served.in_flight.batch))
        assert served.kv_cache.free_blocks >= 0

    def on_iteration(self, now_ns, served, batch, outcome) -> None:
        pass


def run(folder, workload, kinds, *, kv_tokens=4096, **scheduler):
    sections = [instance(folder, *kind, kv_tokens=kv_tokens, **scheduler) for kind in kinds]
    cluster = make_cluster(folder, sections)
    latencies = {spec.instance_id: LinearLatency() for spec in cluster.instances}
    batches = Batches()
    simulation = Simulation(cluster, specs_of(workload), SimulationConfig(), latencies, [batches])
    simulation.run()
    return collect(cluster, simulation), batches, simulation


@settings(max_examples=100)
@given(
    st.sampled_from(prefill_policy_names()),
    st.sampled_from([COLOCATED, SPLIT]),
    st.sampled_from([1000, 4096]),
    st.booleans(),
    st.sampled_from(["", "groups=2", "groups=2,density=on", "chunk=64"]),
    workloads,
)
def test_every_request_finishes_once_and_all_blocks_come_back(
    tmp_path_factory, policy, kinds, kv_tokens, prefill_first, args, workload
):
    folder = tmp_path_factory.mktemp("hol")
    limits = {
        "max_num_batched_tokens": 128,
        "scheduling_policy": policy,
        "policy_args": args,
        "prioritize_prefill": prefill_first,
    }
    result, _, simulation = run(folder, workload, kinds, kv_tokens=kv_tokens, **limits)
    assert [one.request.request_id for one in result.metrics] == list(range(len(workload)))
    assert all(
        len(one.itl_ns) == output - 1 for one, (_, _, output) in zip(result.metrics, workload, strict=True)
    )
    for served in simulation.instances.values():
        assert served.kv_cache.used_blocks == 0
        assert not len(served.scheduler.waiting)


@settings(max_examples=20)
@given(st.sampled_from(prefill_policy_names()), workloads)
def test_two_runs_of_one_workload_are_the_same_bytes(tmp_path_factory, policy, workload):
    folder = tmp_path_factory.mktemp("hol")
    texts = {
        csv_text(run(folder, workload, SPLIT, scheduling_policy=policy, max_num_batched_tokens=128)[0])
        for _ in range(2)
    }
    assert len(texts) == 1


def test_a_prompt_that_gives_tokens_away_keeps_its_progress(tmp_path):
    """A short prompt arrives during the first chunk of a long one, and shares the second with it."""
    workload = [(0, 500, 1), (60_000, 10, 1)]
    limits = {"scheduling_policy": "srpt", "max_num_batched_tokens": 100}
    result, batches, _ = run(tmp_path, workload, COLOCATED, **limits)
    assert [batch.grants[batch.grants > 0].tolist() for _, batch in batches.seen] == [
        [100],
        [90, 10],
        [100],
        [100],
        [100],
        [10],
    ]
    assert result.prefill[0].chunks == 6


def test_layer_groups_let_a_short_prompt_in_between(tmp_path):
    workload = [(0, 300, 1), (1000, 10, 1)]
    limits = {"scheduling_policy": "bounded-overtake", "max_num_batched_tokens": 100}
    _, batches, simulation = run(tmp_path, workload, SPLIT, **limits, policy_args="groups=2,beta=5")
    steps = [(batch.total_tokens, tuple(batch.layer_group)) for _, batch in batches.seen]
    assert steps[:5] == [(100, (0, 2)), (10, (0, 1)), (100, (1, 2)), (100, (0, 2)), (100, (1, 2))]
    assert simulation.finished[0].request_id == 1


def test_a_paused_prompts_blocks_are_counted(tmp_path):
    workload = [(0, 320, 1), (1000, 16, 1)]
    limits = {"scheduling_policy": "bounded-overtake", "max_num_batched_tokens": 160}
    result, _, _ = run(tmp_path, workload, SPLIT, **limits, policy_args="groups=2,beta=5")
    assert result.summary.instances[0].peak_paused_kv_blocks == 10


def test_a_chunk_whose_activations_find_no_memory_is_not_paused(tmp_path):
    """The prompt fills the pool, so both layer groups of each chunk run one after the other."""
    workload = [(0, 480, 1), (1000, 10, 1)]
    limits = {"scheduling_policy": "bounded-overtake", "max_num_batched_tokens": 240}
    _, batches, _ = run(tmp_path, workload, SPLIT, **limits, policy_args="groups=2,beta=5", kv_tokens=500)
    steps = [(batch.total_tokens, tuple(batch.layer_group)) for _, batch in batches.seen]
    assert steps[:2] == [(240, (0, 2)), (240, (1, 2))]


def test_activations_of_a_token_are_hidden_states_and_residual(tmp_path):
    cluster = make_cluster(tmp_path, [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")])
    activations = ActivationBlocks.of(cluster.instances[0], 16)
    assert (activations.bytes_per_token, activations.block_bytes) == (2 * 64 * 2, 16 * 2 * 4 * 16 * 2 * 2)
    assert [activations.for_tokens(tokens) for tokens in (0, 1, 32, 33)] == [0, 1, 1, 2]


def test_a_decode_instance_has_no_prefills_to_order(tmp_path):
    _, _, simulation = run(tmp_path, [(0, 10, 2)], SPLIT, scheduling_policy="srpt")
    kinds = [type(served.scheduler) is HolScheduler for served in simulation.instances.values()]
    assert kinds == [True, False]


@pytest.mark.parametrize("policy", prefill_policy_names())
def test_decodes_go_on_while_a_long_prompt_is_computed(tmp_path, policy):
    workload = [(0, 10, 12), (1000, 900, 1)]
    limits = {"scheduling_policy": policy, "max_num_batched_tokens": 64}
    result, _, _ = run(tmp_path, workload, COLOCATED, **limits)
    assert result.metrics[0].latency_ns < result.metrics[1].latency_ns

"""What holds for every run (docs/invariants.md), as properties over small random clusters and workloads."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusters import (
    KV_BYTES_PER_TOKEN,
    LinearLatency,
    cluster_file,
    instance,
    make_cluster,
    requests,
    simulate,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.cluster import Role
from inference_serving.config_builder import load_cluster
from inference_serving.metrics import request_metrics
from inference_serving.output import collect
from inference_serving.request import Batch
from inference_serving.request_csv import csv_text
from inference_serving.scheduler import IterationOutcome
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation

BLOCK_LAYERS, LAYERS_OUTSIDE, MODEL_LAYERS = 11, 3, 2

kinds = st.sampled_from(
    [
        [(1, None)],
        [(2, None)],
        [(4, None)],
        [(1, None), (1, None)],
        [(1, "prefill"), (1, "decode")],
        [(2, "prefill"), (1, "decode")],
        [(1, "prefill"), (4, "decode")],
        [(1, "prefill"), (2, "prefill"), (1, "decode"), (2, "decode")],
        [(1, None), (1, "prefill"), (1, "decode")],
    ]
)
lengths = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=25)
schedulers = st.builds(
    SchedulerSettings,
    max_num_seqs=st.sampled_from([0, 1, 3]),
    max_num_batched_tokens=st.sampled_from([16, 64, 512]),
    block_size=st.sampled_from([1, 8, 16]),
    long_prefill_token_threshold=st.sampled_from([0, 24]),
    reserve_full_isl=st.booleans(),
    prioritize_prefill=st.booleans(),
    scheduling_policy=st.sampled_from(["fcfs", "priority"]),
)
colocated = st.sampled_from([[(1, None)], [(2, None)], [(1, None), (1, None)]])


class IterationTimes:
    """Checks that iterations of an instance do not overlap."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.ends: dict[int, list[int]] = {}

    def on_submit(self, instance, trace, ticket) -> None:
        assert instance.instance_id not in self.open, "an iteration began before the last one ended"
        self.open.add(instance.instance_id)

    def on_iteration(self, now_ns: int, instance, batch: Batch, outcome: IterationOutcome) -> None:
        self.open.remove(instance.instance_id)
        self.ends.setdefault(instance.instance_id, []).append(now_ns)


def build(npus, kv_tokens, scheduler, routing="LOAD"):
    config = SimulationConfig(scheduler=scheduler, request_routing_policy=routing)
    folder = Path(tempfile.mkdtemp())
    sections = [instance(folder, npu, pd, kv_tokens) for npu, pd in npus]
    return make_cluster(folder, sections, config), config


def check_invariants(simulation: Simulation, workload, *, one_at_a_time: bool = True) -> None:
    assert sorted(r.request_id for r in simulation.finished) == [r.request_id for r in workload]  # INV-1
    for request in simulation.finished:
        times = request.token_times_ns()
        assert times.size == request.output_tokens  # INV-1
        assert np.all(np.diff(times) >= int(one_at_a_time))  # INV-4
        metrics = request_metrics(request)
        assert 0 < metrics.ttft_ns <= metrics.latency_ns  # INV-3
        assert 0 <= metrics.queuing_delay_ns < metrics.ttft_ns
        assert times[-1] == request.end_ns
    for one in simulation.instances.values():
        assert one.kv_cache.free_blocks == one.kv_cache.capacity_blocks  # INV-2
        assert one.unfinished_requests == 0
        assert not one.scheduler.running
        assert not len(one.scheduler.waiting)
    assert simulation.counters.tickets_active == 0


@settings(max_examples=80)
@given(kinds, lengths, schedulers, st.integers(0, 40_000), st.sampled_from(["RR", "RAND", "LOAD"]))
def test_invariants_hold_with_plenty_of_kv(npus, pairs, scheduler, gap_ns, routing):
    cluster, config = build(npus, 100_000, scheduler, routing)
    workload = requests(*pairs, gap_ns=gap_ns)
    times = IterationTimes()
    simulation = simulate(cluster, workload, config, [times])
    check_invariants(simulation, workload)
    assert all(np.all(np.diff(ends) > 0) for ends in times.ends.values())  # INV-5, INV-9
    assert sum(one.scheduler.preemptions for one in simulation.instances.values()) == 0


@settings(max_examples=80)
@given(kinds, lengths, schedulers, st.integers(0, 40_000))
def test_invariants_hold_when_kv_blocks_are_short(npus, pairs, scheduler, gap_ns):
    longest = max(p + o for p, o in pairs)
    cluster, config = build(npus, longest + 2 * scheduler.block_size, scheduler)
    workload = requests(*pairs, gap_ns=gap_ns)
    simulation = simulate(cluster, workload, config)
    check_invariants(simulation, workload)


@settings(max_examples=80)
@given(colocated, lengths, schedulers, st.integers(0, 40_000), st.booleans())
def test_invariants_hold_when_batches_are_formed_ahead(npus, pairs, scheduler, gap_ns, short_of_kv):
    longest = max(p + o for p, o in pairs)
    kv_tokens = longest + 2 * scheduler.block_size if short_of_kv else 100_000
    cluster, config = build(npus, kv_tokens, replace(scheduler, async_scheduling=True))
    workload = requests(*pairs, gap_ns=gap_ns)
    times = IterationTimes()
    check_invariants(simulate(cluster, workload, config, [times]), workload)
    assert all(np.all(np.diff(ends) > 0) for ends in times.ends.values())  # INV-5, INV-9


@settings(max_examples=60)
@given(kinds, lengths, schedulers, st.booleans())
def test_disaggregation_sends_the_k_and_v_of_every_prompt_once(npus, pairs, scheduler, short_of_kv):
    longest = max(p + o for p, o in pairs)
    cluster, config = build(npus, longest + 32 if short_of_kv else 100_000, scheduler)
    simulation = simulate(cluster, requests(*pairs), config)
    moved = [r for r in simulation.finished if r.decode_instance_id >= 0]
    assert simulation.counters.p2p_bytes == KV_BYTES_PER_TOKEN * sum(r.prompt_tokens for r in moved)  # INV-7


@settings(max_examples=20)
@given(kinds, lengths, schedulers)
def test_same_seed_same_bytes(npus, pairs, scheduler):
    texts = []
    for _ in range(2):
        cluster, config = build(npus, 1000, scheduler, "RAND")
        texts.append(csv_text(collect(cluster, simulate(cluster, requests(*pairs, gap_ns=999), config))))
    assert texts[0].replace("tmp", "") == texts[1].replace("tmp", "") or _same_but_for_paths(*texts)  # INV-11


def _same_but_for_paths(first: str, second: str) -> bool:
    def strip(text: str) -> list[list[str]]:
        return [[cell for cell in line.split(",") if "/" not in cell] for line in text.splitlines()]

    return strip(first) == strip(second)


def iteration_ns(tokens: int, attention: int, sequences: int = 1) -> int:
    """Time of one iteration of the two-layer test model on one NPU, computed by hand."""
    layers = MODEL_LAYERS * (BLOCK_LAYERS * (1000 + 10 * tokens) + attention)
    host_memory = int(4 * tokens / 256) + int(4 * sequences / 256)  # token ids in, sampled ids out
    return host_memory + layers + 2 * (1000 + 10 * tokens) + (1000 + 10 * sequences)


@pytest.mark.parametrize("prompt", [1, 7, 100, 512])
def test_a_lone_request_gets_its_first_token_after_its_critical_path(tmp_path, prompt):
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    simulation = simulate(cluster, requests((prompt, 1)))
    expected = iteration_ns(prompt, 500 + prompt * prompt)
    assert request_metrics(simulation.finished[0]).ttft_ns == expected  # INV-10


def test_a_prompt_longer_than_the_budget_takes_a_chain_of_chunks(tmp_path):
    config = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=100))
    cluster = make_cluster(tmp_path, [instance(tmp_path)], config)
    simulation = simulate(cluster, requests((250, 1)), config)
    chunks = [(100, 0), (100, 100), (50, 200)]
    expected = sum(iteration_ns(q, 500 + q * (context + q)) for q, context in chunks)
    assert request_metrics(simulation.finished[0]).ttft_ns == expected


def test_the_step_overhead_delays_every_iteration(tmp_path):
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    plain = simulate(cluster, requests((50, 4))).finished[0]
    slow = simulate(cluster, requests((50, 4)), latency=LinearLatency(step_overhead_ns=700)).finished[0]
    assert (slow.token_times_ns() - plain.token_times_ns()).tolist() == [700, 1400, 2100, 2800]


@pytest.mark.parametrize(("setting", "delay_ns"), [(None, 700), (0, 0), (900, 900)])
def test_the_step_overhead_of_the_latency_source_can_be_replaced(tmp_path, setting, delay_ns):
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    config = SimulationConfig(step_overhead_ns=setting)
    plain = simulate(cluster, requests((50, 2))).finished[0]
    latency = LinearLatency(step_overhead_ns=700)
    other = simulate(cluster, requests((50, 2)), config, latency=latency).finished[0]
    assert (other.token_times_ns() - plain.token_times_ns()).tolist() == [delay_ns, 2 * delay_ns]


def test_tensor_parallel_adds_two_all_reduces_a_block(tmp_path):
    """A ring all-reduce of S bytes on n NPUs: ed + 2(n-1)(message + ed) + (n-1) reductions, ed = 10 ns."""
    prompt, npus = 100, 4
    cluster = make_cluster(tmp_path, [instance(tmp_path, npus)])
    simulation = simulate(cluster, requests((prompt, 1)))
    chunk = prompt * 64 * 2 // npus
    message = int(chunk / (112 * 2**30 / 1e9))
    reduction = 3 * int(chunk / (3350 * 1e9) * 1e9)
    all_reduce = 10 + 2 * (npus - 1) * (message + 10) + (npus - 1) * reduction
    queue_ns = (npus - 1) * int(4 * prompt / 256)  # four ranks read the token ids from one host memory
    expected = iteration_ns(prompt, 500 + prompt * prompt) + 2 * MODEL_LAYERS * all_reduce + queue_ns
    assert request_metrics(simulation.finished[0]).ttft_ns == expected


def test_kv_transfers_overlap_with_the_prefill_and_delay_only_the_decode(tmp_path):
    pair = [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")]
    simulation = simulate(make_cluster(tmp_path, pair), requests((512, 2)))
    request = simulation.finished[0]
    first, second = request.token_times_ns().tolist()
    assert first == iteration_ns(512, 500 + 512 * 512)
    assert second - first == iteration_ns(1, 500 + 513)
    assert (request.prefill_instance_id, request.instance_id) == (0, 1)


def test_the_prefill_instance_goes_on_while_kv_is_on_its_way(tmp_path):
    """With a slow link the transfer ends long after the second prompt's prefill has."""
    config = SimulationConfig()
    pair = [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")]
    cluster = load_cluster(cluster_file(tmp_path, pair, link_bw=0.01), config)
    simulation = simulate(cluster, requests((512, 2), (512, 2), gap_ns=1))
    first, second = sorted(simulation.finished, key=lambda request: request.request_id)
    prefill_ns = iteration_ns(512, 500 + 512 * 512)
    assert first.token_times_ns()[0] == prefill_ns
    assert second.token_times_ns()[0] == 2 * prefill_ns
    one_transfer_ns = 512 * KV_BYTES_PER_TOKEN / (0.01 * 2**30 / 1e9)
    assert first.token_times_ns()[1] > one_transfer_ns > 2 * prefill_ns
    assert second.token_times_ns()[1] > 2 * one_transfer_ns  # the copy engine sends one after the other


def test_a_router_sees_the_load_at_arrival(tmp_path):
    config = SimulationConfig(request_routing_policy="LOAD")
    cluster = make_cluster(tmp_path, [instance(tmp_path), instance(tmp_path)], config)
    workload = requests((400, 30), (10, 1), (10, 1), gap_ns=100_000)
    simulation = simulate(cluster, workload, config)
    served = {request.request_id: request.instance_id for request in simulation.finished}
    assert served == {0: 0, 1: 1, 2: 1}


def test_generation_only_runs_no_prompt(tmp_path):
    config = SimulationConfig(scheduler=SchedulerSettings(skip_prefill=True))
    cluster = make_cluster(tmp_path, [instance(tmp_path)], config)
    request = simulate(cluster, requests((300, 3)), config).finished[0]
    assert request.token_times_ns()[0] == iteration_ns(1, 500 + 300)


def test_stopping_keeps_what_has_finished(tmp_path):
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    latencies = {0: LinearLatency()}

    class StopAfterTwo:
        def on_submit(self, instance, trace, ticket):
            pass

        def on_iteration(self, now_ns, instance, batch, outcome):
            if len(simulation.finished) == 2:
                simulation.stop()

    observers = [StopAfterTwo()]
    workload = requests((10, 2), (10, 4), (10, 90))
    simulation = Simulation(cluster, workload, SimulationConfig(), latencies, observers)
    simulation.run()
    assert [request.request_id for request in simulation.finished] == [0, 1]
    assert simulation.interrupted


def test_roles_are_read_from_the_config(tmp_path):
    pair = [instance(tmp_path, 2, "prefill"), instance(tmp_path, 1, "decode")]
    cluster = make_cluster(tmp_path, pair)
    assert [(spec.role, spec.npus) for spec in cluster.instances] == [
        (Role.PREFILL, (0, 1)),
        (Role.DECODE, (2,)),
    ]

"""Runs with offloaded attention against closed forms: one request, channels shared, bytes moved, roles, energy."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from clusters import TINY_MODEL, instance, requests, simulate
from pim_clusters import (
    HEAD_FIXED_NS,
    HEAD_TOKEN_NS,
    INTERLEAVED,
    LATENCY_NS,
    OFFLOADED,
    pim_cluster,
)
from power_clusters import power_block

from astra_sim import NodeKind
from inference_serving.graph_generator import build_graphs
from inference_serving.instance import Instance
from inference_serving.power_model import PowerModel
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.trace import Trace

HOST_BYTES_PER_NS = 256
QUERY, KV = 64 * 2, 2 * 64 * 2
"""Bytes of a token's query (or result), and of its K and V, in one layer."""


def access_ns(size: int) -> int:
    return LATENCY_NS + size // HOST_BYTES_PER_NS


def layers_ns(tokens: int, sequences: int = 1) -> int:
    """All layers but attention: embedding, eleven in each of two blocks, final norm; lm_head."""
    return (2 + 2 * 11) * (1000 + 10 * tokens) + 1000 + 10 * sequences


def ids_ns(tokens: int, sequences: int) -> int:
    return access_ns(4 * tokens) + access_ns(4 * sequences)


def decode_ns(attention_ns: int, rows: int = 1) -> int:
    """An iteration of single tokens: queries and KV go there, channels compute, results come back."""
    moved = access_ns(rows * (QUERY + KV)) + access_ns(rows * QUERY)
    return ids_ns(rows, rows) + layers_ns(rows, rows) + 2 * (moved + attention_ns)


def head_ns(kv_tokens: int) -> int:
    return HEAD_TOKEN_NS * kv_tokens + HEAD_FIXED_NS


class Submitted:
    """Keeps the traces of a run."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        self.traces.append(trace)

    def on_iteration(self, *_: object) -> None:
        pass

    def host_bytes(self, name: str) -> int:
        """Bytes of all loads and stores of host memory whose names end so."""
        return sum(
            int(trace.sizes[node.size_slot])
            for trace in self.traces
            for graph in build_graphs(trace.shape)
            for node in graph.nodes
            if node.kind in (NodeKind.MEM_LOAD, NodeKind.MEM_STORE) and node.name.endswith(name)
        )


@pytest.mark.parametrize(("channels", "heads_each"), [(1, 4), (2, 2), (4, 1), (8, 1)])
def test_one_request_takes_the_closed_form(tmp_path, channels, heads_each):
    """A prompt of 100 tokens on the NPU, then tokens against 101, 102 and 103 of KV in memory."""
    run = simulate(pim_cluster(tmp_path, [instance(tmp_path)], channels), requests((100, 4)), OFFLOADED)
    times_ns = run.requests[0].token_times_ns().tolist()
    prompt_ns = ids_ns(100, 1) + layers_ns(100) + 2 * (500 + 100 * 100)
    assert times_ns[0] == prompt_ns
    gaps_ns = [later - earlier for earlier, later in pairwise(times_ns)]
    assert gaps_ns == [decode_ns(heads_each * head_ns(kv)) for kv in (101, 102, 103)]


@pytest.mark.parametrize(("channels", "turns"), [(4, 2), (8, 1)])
def test_requests_run_side_by_side_if_there_are_channels_for_both(tmp_path, channels, turns):
    run = simulate(
        pim_cluster(tmp_path, [instance(tmp_path)], channels), requests((50, 2), (50, 2)), OFFLOADED
    )
    first, second = (request.token_times_ns().tolist() for request in run.requests)
    assert first == second
    assert first[1] - first[0] == decode_ns(turns * head_ns(51), rows=2)


def test_instances_of_a_node_share_its_channels(tmp_path):
    """Two instances decode at the same time: all four channels have a head of each."""
    cluster = pim_cluster(tmp_path, [instance(tmp_path), instance(tmp_path)], channels=4)
    run = simulate(cluster, requests((50, 2), (50, 2)), OFFLOADED)
    slower_ns = max(times[1] - times[0] for times in (one.token_times_ns() for one in run.requests))
    alone_ns = decode_ns(head_ns(51))
    assert (
        alone_ns + head_ns(51) - 2 * LATENCY_NS <= slower_ns <= alone_ns + 2 * head_ns(51) + 20 * LATENCY_NS
    )


def test_bytes_moved_are_bytes_needed(tmp_path):
    """A prompt of 100 in chunks of 40, 40 and 20; then three tokens: new KV is stored once, context loaded back."""
    config = replace(OFFLOADED, scheduler=SchedulerSettings(max_num_batched_tokens=40))
    seen = Submitted()
    simulate(pim_cluster(tmp_path, [instance(tmp_path)], config=config), requests((100, 4)), config, [seen])
    assert seen.host_bytes("_kv_store") == 2 * 100 * KV
    assert seen.host_bytes("_kv_load") == 2 * (40 + 80) * KV
    assert seen.host_bytes("_to_pim") == 2 * 3 * (QUERY + KV)
    assert seen.host_bytes("_from_pim") == 2 * 3 * QUERY


def test_a_window_bounds_what_is_read(tmp_path):
    """A window of 30 tokens: chunks of a prompt of 100 need 29 tokens before them, decodes read 30."""
    config = replace(OFFLOADED, scheduler=SchedulerSettings(max_num_batched_tokens=40))
    section = instance(tmp_path)
    model = tmp_path / "window.json"
    model.write_text(json.dumps({**TINY_MODEL, "model_type": "mistral", "sliding_window": 30}))
    cluster = pim_cluster(tmp_path, [{**section, "model_name": str(model)}], config=config)
    seen = Submitted()
    run = simulate(cluster, requests((100, 4)), config, [seen])
    assert seen.host_bytes("_kv_load") == 2 * (29 + 29) * KV
    times_ns = run.requests[0].token_times_ns().tolist()
    assert {later - earlier for earlier, later in pairwise(times_ns)} == {decode_ns(head_ns(30))}


def test_prompts_compute_on_the_npu_while_memory_has_the_others(tmp_path):
    """A chunk that takes longer than the decode's attention hides it."""
    run = simulate(
        pim_cluster(tmp_path, [instance(tmp_path)]), requests((10, 2), (200, 1), gap_ns=1), OFFLOADED
    )
    decoding, prompt = (request.token_times_ns().tolist() for request in run.requests)
    assert prompt[0] == decoding[1]
    chunk_ns = 2 * (500 + 200 * 200)
    assert decoding[1] - decoding[0] == ids_ns(201, 2) + layers_ns(201, 2) + chunk_ns


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_heads_and_channels_of_their_own(tmp_path, ranks):
    """Attention of four heads takes as long on 8 channels whether one rank has them or several."""
    times = []
    for npus, heads in ((1, 4), (ranks, 4 // ranks)):
        seen = Submitted()
        cluster = pim_cluster(tmp_path, [instance(tmp_path, npus)], channels=8)
        simulate(cluster, requests((50, 2)), OFFLOADED, [seen])
        graphs = build_graphs(seen.traces[1].shape)
        nodes = [node for graph in graphs for node in graph.nodes if node.pim_channel is not None]
        durations = seen.traces[1].durations_ns
        busy = [(node.pim_channel, int(durations[node.duration_slot])) for node in nodes]
        assert {channel for channel, _ in busy} == set(
            range(0, 8, heads)
        )  # those of a request work in unison
        times += [ns for _, ns in busy if ns]
    assert times == [head_ns(51)] * 2 * (1 + ranks)


def test_kv_lands_in_the_memory_of_a_decode_instance(tmp_path):
    """The transfer ends with a store there: bytes of the whole prompt, in both layers."""
    sections = [instance(tmp_path, pd_type="prefill"), instance(tmp_path, pd_type="decode")]
    seen = Submitted()
    cluster = pim_cluster(tmp_path, sections)
    run = simulate(cluster, requests((100, 3)), OFFLOADED, [seen])
    assert [spec.pim is None for spec in cluster.instances] == [True, False]
    assert seen.host_bytes("_from_rank_0_store") == 2 * 100 * KV
    _, second, third = run.requests[0].token_times_ns().tolist()
    assert third - second == decode_ns(head_ns(102))


def test_decoding_waits_until_the_kv_is_in_memory(tmp_path):
    """At 0.01 GB/s the 25,600 bytes of each layer take 2.56 ms to store, one after the other."""
    sections = [instance(tmp_path, pd_type="prefill"), instance(tmp_path, pd_type="decode")]
    seconds = []
    for config in (OFFLOADED, SimulationConfig()):
        cluster = pim_cluster(tmp_path, sections, config=config)
        slow = replace(cluster, nodes=tuple(replace(node, cpu_mem_bw_gbps=0.01) for node in cluster.nodes))
        seconds.append(simulate(slow, requests((100, 3)), config).requests[0].token_times_ns()[1])
    assert seconds[0] > 2 * 2_560_000
    assert seconds[1] < 1_000_000


def test_kv_fills_host_memory_not_the_npus(tmp_path):
    cluster = pim_cluster(tmp_path, [instance(tmp_path), instance(tmp_path)], channels=8)
    block_bytes = 16 * 2 * KV
    assert [spec.memory.kv_blocks for spec in cluster.instances] == [(8 << 20) // 2 // block_bytes] * 2


def test_energy_of_the_channels_is_active_minus_idle_while_they_compute(tmp_path):
    """2 W for each of four heads in two layers and three tokens; the NPU is on standby meanwhile."""
    cluster = pim_cluster(tmp_path, [instance(tmp_path)], power=power_block())
    power = PowerModel(cluster, 10**9)
    simulate(cluster, requests((100, 4)), OFFLOADED, [power])
    found = power.report().nodes[0].by_part_j()
    busy_ns = 4 * 2 * sum(head_ns(kv) for kv in (101, 102, 103))
    assert found["pim"] == pytest.approx(2 * busy_ns * 1e-9)
    active_ns = layers_ns(100) + 2 * (500 + 100 * 100) + 3 * layers_ns(1)
    total_ns = power.report().duration_ns
    assert found["npu"] == pytest.approx((50 * total_ns + 250 * active_ns) * 1e-9)


def test_a_cluster_without_the_flag_is_as_if_it_named_no_device(tmp_path):
    workload = requests((100, 20), (300, 5), (20, 40), gap_ns=10_000)
    with_device = pim_cluster(
        tmp_path, [instance(tmp_path)], config=replace(OFFLOADED, attn_offloading=False)
    )
    nodes = tuple(replace(node, pim=None) for node in with_device.nodes)
    assert with_device.nodes == nodes
    assert with_device.instances[0].pim is None
    ends = [one.end_ns for one in simulate(with_device, workload).requests]
    plain = replace(with_device, file=tmp_path / "plain.json")
    assert ends == [one.end_ns for one in simulate(plain, workload).requests]


@pytest.mark.parametrize("config", [OFFLOADED, INTERLEAVED], ids=["offloaded", "interleaved"])
@pytest.mark.parametrize(
    "settings", [{}, {"async_scheduling": True}, {"scheduling_policy": "priority"}, {"skip_prefill": True}]
)
def test_every_request_is_served_whatever_the_scheduler(tmp_path, config, settings):
    """Few channels, little memory (preemptions), chunks of prompts."""
    chosen = replace(config, scheduler=SchedulerSettings(max_num_batched_tokens=64, **settings))
    cluster = pim_cluster(tmp_path, [instance(tmp_path, 2)], channels=3, config=chosen)
    cluster = replace(
        cluster,
        instances=tuple(
            replace(spec, memory=replace(spec.memory, stated_kv_blocks=20)) for spec in cluster.instances
        ),
    )
    lengths = [(30 + 7 * number % 90, 5 + 11 * number % 60) for number in range(30)]
    run = simulate(cluster, requests(*lengths, gap_ns=20_000), chosen)
    assert [one.generated for one in run.requests] == [output for _, output in lengths]
    assert run.instances[0].scheduler.preemptions > 0

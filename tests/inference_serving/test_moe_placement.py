"""Weights and KV of mixtures of experts elsewhere than on the NPU: which bytes move, and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import requests, simulate
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
from test_kv_tiers import Bytes
from test_moe_kinds import deepseek
from test_placement import BANDWIDTH, EDGES, cluster_with
from test_trace_generator import batch

from astra_sim import NodeKind
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, InstanceSpec
from inference_serving.config_builder import load_cluster
from inference_serving.gate_function import Balanced, ExpertRouting, Random
from inference_serving.graph_generator import build_graphs
from inference_serving.memory_model import weight_bytes_by_place
from inference_serving.memory_places import MemoryId, spare_bytes
from inference_serving.placement import CPU, NPU, Place
from inference_serving.settings import SimulationConfig
from inference_serving.trace_dump import trace_text
from inference_serving.trace_generator import TraceGenerator
from inference_serving.trace_shape import KvMoveKind
from llm_profile.layers import stored_elements, weight_bytes

ON_HOST = {"default": {"weights": "cpu"}, "prefetch_blocks": BLOCKS + 2}
EXPERT_BYTES = EXPERTS * 3 * HIDDEN * WIDTH * 2


def moe(folder: Path, npus: int = 1, **extra: Any) -> Cluster:
    return cluster_with(folder, moe_instance(folder, npus, **extra))


def loaded_bytes(spec: InstanceSpec, routing: ExpertRouting) -> list[int]:
    """Weights that each rank loads in an iteration of 20 tokens."""
    trace = TraceGenerator(spec, MoeLatency(), routing).synthesize_trace(batch((20, 0)), {}, {})
    return [
        sum(int(trace.sizes[node.size_slot]) for node in graph.nodes if node.name.endswith("_weights"))
        for graph in build_graphs(trace.shape)
    ]


@pytest.mark.parametrize(("npus", "ep_size"), [(1, 1), (2, 1), (2, 2), (4, 4)])
@pytest.mark.parametrize("policy", [Balanced, Random])
def test_bytes_loaded_are_those_of_all_weights_whoever_gets_tokens(tmp_path, npus, ep_size, policy):
    (spec,) = moe(tmp_path, npus, ep_size=ep_size, placement=ON_HOST).instances
    routing = policy(EXPERTS, PER_TOKEN, np.random.default_rng(0))
    assert loaded_bytes(spec, routing) == [weight_bytes(spec.model, npus, 16, ep_size)] * npus


@pytest.mark.parametrize(("npus", "ep_size"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("make", [moe_instance, deepseek])
def test_weights_in_all_places_add_up_to_the_model(tmp_path, make, npus, ep_size):
    placement = {
        "default": {"weights": "cpu"},
        "layers": {"experts": {"weights": "cxl:1"}, "gate": {"weights": "npu"}},
    }
    cluster = cluster_with(tmp_path, make(tmp_path, npus, ep_size=ep_size, placement=placement))
    (spec,) = cluster.instances
    by_place = weight_bytes_by_place(spec.model, npus, spec.precision, spec.placement, ep_size)
    assert set(by_place) == {CPU, NPU, Place("cxl", 1)}
    assert sum(by_place.values()) == weight_bytes(spec.model, npus, 16, ep_size)
    assert by_place[Place("cxl", 1)] * npus == spec.model.expert_blocks * EXPERT_BYTES
    left = spare_bytes(cluster)[MemoryId(Place("cxl", 1))]
    assert left == 2**30 - spec.model.expert_blocks * EXPERT_BYTES


def layer_time_ns(layer: str, tokens: int = 20) -> int:
    if layer == "experts":
        return expert_ns(np.full(EXPERTS, tokens * PER_TOKEN // EXPERTS))
    return 500 + tokens**2 if layer == "attn" else 1000 + 10 * tokens


def pipelined_ns(cluster: Cluster, rows: Sequence[str]) -> int:
    """Time of one block whose loads, one after another, begin with it: a row waits for its own."""
    spec = cluster.instances[0]
    spent_ns = loaded_ns = 0
    for row in rows:
        if size := stored_elements(spec.model, row, 1) * 2:
            loaded_ns += 250 + size // BANDWIDTH
            spent_ns = max(spent_ns, loaded_ns)
        spent_ns += layer_time_ns(row)
    return spent_ns


def test_experts_wait_for_their_weights_and_the_next_block_for_the_experts(tmp_path):
    placement = {"default": {"weights": "cxl:0"}, "layers": EDGES, "prefetch_blocks": 0}
    cluster, plain = moe(tmp_path, placement=placement), moe(tmp_path)
    block_ns = sum(map(layer_time_ns, MOE_BLOCK))
    elsewhere, here = (
        simulate(one, requests((20, 1)), latency=MoeLatency()).finished[0].end_ns for one in (cluster, plain)
    )
    assert pipelined_ns(cluster, MOE_BLOCK) > EXPERT_BYTES // BANDWIDTH
    assert elsewhere - here == BLOCKS * (pipelined_ns(cluster, MOE_BLOCK) - block_ns)


@pytest.mark.parametrize("ep_size", [1, 2])
def test_ranks_share_their_host(tmp_path, ep_size):
    cluster = moe(tmp_path, 2, ep_size=ep_size, placement=ON_HOST)
    end_ns = simulate(cluster, requests((20, 1)), latency=MoeLatency()).finished[0].end_ns
    loads_ns = 2 * weight_bytes(cluster.instances[0].model, 2, 16, ep_size) // BANDWIDTH
    assert loads_ns <= end_ns < 1.2 * loads_ns


def test_local_offloading_reads_every_expert_from_the_npus_own_memory(tmp_path):
    section = moe_instance(tmp_path)
    section["npu_mem"]["mem_bw"] = BANDWIDTH
    plain, config = cluster_with(tmp_path, section), SimulationConfig(local_offloading=True)
    cluster = load_cluster(tmp_path / "cluster.json", config)
    assert cluster.instances[0].memory == plain.instances[0].memory
    loads_ns = weight_bytes(cluster.instances[0].model) // BANDWIDTH
    run, alone = (simulate(one, requests((20, 1)), latency=MoeLatency()) for one in (cluster, plain))
    assert loads_ns < run.finished[0].end_ns <= loads_ns + alone.finished[0].end_ns


def test_kv_of_preempted_requests_is_loaded_again_to_the_byte(tmp_path):
    memory = {"mem_size": 1, "mem_bw": 3350, "kv_blocks": 12}
    section = moe_instance(tmp_path, npu_mem=memory, placement={"default": {"kv_evict_loc": "cpu"}})
    moved = Bytes()
    run = simulate(
        cluster_with(tmp_path, section), requests((60, 60), (60, 60), (60, 60)), None, [moved], MoeLatency()
    )
    assert sum(one.preemptions for one in run.finished) > 0
    evicted, loaded = (moved.moved[KvMoveKind(name, CPU)] for name in ("kv_evict", "kv_load"))
    assert evicted == loaded > 0
    assert evicted % (2 * HIDDEN * 2 * BLOCKS) == 0


def test_kv_elsewhere_is_read_and_written_by_every_block(tmp_path):
    (spec,) = moe(tmp_path, 2, ep_size=2, placement={"default": {"kv_loc": "cpu"}}).instances
    trace = TraceGenerator(spec, MoeLatency()).synthesize_trace(batch((20, 30)), {}, {})
    read, write = trace.shape.streams_kv
    row = 2 * HIDDEN * 2 // 2  # K and V of half of the heads
    assert (trace.sizes[read.slot], trace.sizes[write.slot]) == (30 * row, 20 * row)
    graph = build_graphs(trace.shape)[0]
    stores = [node for node in graph.nodes if node.kind is NodeKind.MEM_STORE and "kv" in node.name]
    assert len(stores) == BLOCKS


def test_instances_of_a_group_load_their_own_experts(tmp_path):
    sections = [moe_instance(tmp_path, dp_group="pair", ep_size=2, placement=ON_HOST) for _ in range(2)]
    cluster = cluster_with(tmp_path, *sections)
    run = simulate(cluster, requests((20, 1)), latency=MoeLatency())
    loads_ns = 2 * weight_bytes(cluster.instances[0].model, 1, 16, 2) // BANDWIDTH
    assert loads_ns <= run.finished[0].end_ns < 1.2 * loads_ns


def test_a_group_that_keeps_evicted_kv_is_refused(tmp_path):
    placement = {"default": {"kv_evict_loc": "cpu"}}
    sections = [moe_instance(tmp_path, dp_group="pair", ep_size=2, placement=placement) for _ in range(2)]
    with pytest.raises(
        InputError, match="dp_group: 'pair': kv_evict_loc is not supported yet for data-parallel"
    ):
        cluster_with(tmp_path, *sections)


def test_the_text_trace_says_where_experts_are(tmp_path):
    (spec,) = moe(tmp_path, placement={"layers": {"experts": {"weights": "cpu"}}}).instances
    trace = TraceGenerator(spec, MoeLatency()).synthesize_trace(batch((20, 0)), {}, {})
    rows = [line.split() for line in trace_text(spec, trace.rows()).splitlines()[3:]]
    places = {row[0].rstrip("0123456789_"): (row[4], int(row[5])) for row in rows if row[0] != "EXPERT"}
    assert places["expert"] == ("REMOTE:0", EXPERT_BYTES)
    assert places["gate"][0] == "LOCAL"

"""Weights and KV elsewhere: which places, what memory is left, and how long their way takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusters import KV_BYTES_PER_TOKEN, TINY_MODEL, LinearLatency, instance, requests, simulate

from astra_sim import NodeKind
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.graph_generator import build_graphs
from inference_serving.memory_model import prefetch_buffer_bytes, weight_bytes_by_place
from inference_serving.memory_places import spare_bytes
from inference_serving.placement import CPU, NPU, Place, PlacementSection, resolve
from inference_serving.settings import SimulationConfig
from inference_serving.shape_builder import build_shape
from llm_profile.layers import BLOCK_LAYERS, LAYERS, layer_shape, weight_bytes
from llm_profile.model_config import ModelConfig

BANDWIDTH = 2  # GB/s of a device: slow, so that loads decide
EDGES = {layer: {"weights": "npu"} for layer in ("embedding", "final_layernorm", "lm_head")}


def cluster_with(folder: Path, *instances: dict[str, Any], devices: int = 2, **host: Any) -> Cluster:
    """Instances on one node beside a CXL pool of 1 GB devices."""
    cpu_mem = {"mem_size": 1, "mem_bw": BANDWIDTH, "mem_latency": 0} | host
    config = {
        "num_nodes": 1,
        "link_bw": 112,
        "link_latency": 0,
        "nodes": [{"num_instances": len(instances), "cpu_mem": cpu_mem, "instances": list(instances)}],
        "cxl_mem": {"mem_size": 1, "mem_bw": BANDWIDTH, "mem_latency": 250, "num_devices": devices},
    }
    file = folder / "cluster.json"
    file.write_text(json.dumps(config))
    return load_cluster(file, SimulationConfig())


def tiny_model(**changes: Any) -> ModelConfig:
    return ModelConfig(name="tiny", **TINY_MODEL | {"head_dim": 16} | changes)


def placed(folder: Path, **placement: Any) -> dict[str, Any]:
    return instance(folder, placement=placement)


def bytes_of(cluster: Cluster, *layers: str) -> list[int]:
    spec = cluster.instances[0]
    sizes = [layer_shape(spec.model, layer, spec.tp_size).weight_elements * 2 for layer in layers]
    return [size for size in sizes if size]


def load_ns(cluster: Cluster, *layers: str, latency_ns: int = 0) -> int:
    return sum(latency_ns + size // BANDWIDTH for size in bytes_of(cluster, *layers))


def first_iteration_ns(cluster: Cluster, tokens: int = 10) -> int:
    return int(simulate(cluster, requests((tokens, 1))).finished[0].end_ns)


def layers_ns(*layers: str, tokens: int = 10) -> int:
    latency = LinearLatency()
    attention = 500 + tokens * tokens
    counts = {"lm_head": 1}
    return sum(
        attention if layer == "attn" else int(latency.layer_ns(layer, counts.get(layer, tokens)))
        for layer in layers
    )


def test_layers_override_blocks_and_blocks_override_the_default():
    section = PlacementSection.model_validate(
        {
            "default": {"weights": "cpu", "kv_loc": "npu", "kv_evict_loc": "cpu"},
            "blocks": [{"blocks": "0-1,3", "weights": "cxl:1", "kv_loc": "cxl:0"}],
            "layers": {"lm_head": {"weights": "npu"}, "q_proj": {"weights": "cxl:0"}},
        }
    )
    placement = resolve(section, tiny_model(num_hidden_layers=4), cxl_devices=2)
    rows = dict(zip([f"{layer}" for layer in ("embedding", *BLOCK_LAYERS)], placement.weights, strict=False))
    assert (rows["embedding"], rows["q_proj"], rows["k_proj"]) == (CPU, Place("cxl", 0), Place("cxl", 1))
    assert placement.weights[-1] == NPU
    assert [block.kv for block in placement.blocks] == [Place("cxl", 0)] * 2 + [NPU, Place("cxl", 0)]
    assert {block.evicted_kv for block in placement.blocks} == {CPU}


def test_tied_embeddings_are_in_one_place():
    section = PlacementSection.model_validate({"layers": {"embedding": {"weights": "cpu"}}})
    assert resolve(section, tiny_model(tie_word_embeddings=True)).weights[-1] == CPU


def test_weights_in_all_places_add_up_to_the_model(tmp_path):
    blocks = [{"blocks": "0", "weights": "cxl:1"}]
    (spec,) = cluster_with(tmp_path, placed(tmp_path, default={"weights": "cpu"}, blocks=blocks)).instances
    by_place = weight_bytes_by_place(spec.model, 1, spec.precision, spec.placement)
    assert set(by_place) == {CPU, Place("cxl", 1)}
    assert sum(by_place.values()) == weight_bytes(spec.model, 1, 16)


def test_weights_elsewhere_leave_their_memory_to_kv_but_for_what_is_loaded_at_once(tmp_path):
    cluster = cluster_with(tmp_path, placed(tmp_path, default={"weights": "cpu"}, prefetch_blocks=0))
    (spec,) = cluster.instances
    stages = (("embedding",), BLOCK_LAYERS, ("final_layernorm", "lm_head"))
    assert spec.memory.weight_bytes == max(sum(bytes_of(cluster, *layers)) for layers in stages)
    buffers = [
        prefetch_buffer_bytes(spec.model, 1, spec.precision, replace(spec.placement, prefetch_blocks=ahead))
        for ahead in range(4)
    ]
    assert buffers == sorted(buffers)
    assert buffers[3] == weight_bytes(spec.model, 1, 16)  # embedding, two blocks, and what follows them


def test_a_host_keeps_what_weights_leave(tmp_path):
    cluster = cluster_with(tmp_path, placed(tmp_path, default={"weights": "cpu"}))
    assert sorted(spare_bytes(cluster).values()) == [
        2**30 - weight_bytes(cluster.instances[0].model),
        2**30,
        2**30,
    ]


def test_an_iteration_without_prefetch_waits_for_every_block(tmp_path):
    """Loads of a block begin when the block before is done, and overlap with the layers that have theirs."""
    cluster = cluster_with(
        tmp_path, placed(tmp_path, default={"weights": "cxl:0"}, layers=EDGES, prefetch_blocks=0)
    )
    spent_ns, load_done_ns = 0, 0
    for _ in range(2):
        start_ns = load_done_ns = spent_ns
        for layer in BLOCK_LAYERS:
            load_done_ns += load_ns(cluster, layer, latency_ns=250)
            ready = load_done_ns if bytes_of(cluster, layer) else 0
            spent_ns = max(spent_ns, ready) + layers_ns(layer)
        assert spent_ns > start_ns
    edges = layers_ns("embedding", "final_layernorm", "lm_head")
    plain = cluster_with(tmp_path, placed(tmp_path))
    ids_ns = first_iteration_ns(plain) - layers_ns(*LAYERS) - layers_ns(*BLOCK_LAYERS)
    # the first block is fetched once the embedding is done, so nothing overlaps with it
    assert first_iteration_ns(cluster) == ids_ns + edges + spent_ns


def test_two_devices_serve_two_blocks_at_once_if_prefetch_lets_them(tmp_path):
    blocks = [{"blocks": "0", "weights": "cxl:0"}, {"blocks": "1", "weights": "cxl:1"}]
    times = {}
    for devices in (1, 2):
        for block, device in zip(blocks, (0, devices - 1), strict=True):
            block["weights"] = f"cxl:{device}"
        section = placed(tmp_path, blocks=blocks, prefetch_blocks=3)
        times[devices] = first_iteration_ns(cluster_with(tmp_path, section))
    cluster = cluster_with(tmp_path, placed(tmp_path))
    block_ns = load_ns(cluster, *BLOCK_LAYERS, latency_ns=250)
    assert times[2] < 2 * block_ns <= times[1]


def test_instances_that_load_from_one_host_wait_for_each_other(tmp_path):
    section = placed(tmp_path, default={"weights": "cpu"}, prefetch_blocks=3)
    alone = simulate(cluster_with(tmp_path, section), requests((10, 1)))
    both = simulate(cluster_with(tmp_path, section, section), requests((10, 1), (10, 1)))
    weights_ns = weight_bytes(both.instances[0].spec.model) // BANDWIDTH
    assert max(one.end_ns for one in both.finished) - alone.finished[0].end_ns == pytest.approx(
        weights_ns, rel=0.1
    )


def test_tensor_parallel_ranks_share_their_host(tmp_path):
    section = instance(tmp_path, 2, placement={"default": {"weights": "cpu"}, "prefetch_blocks": 3})
    simulation = simulate(cluster_with(tmp_path, section), requests((10, 1)))
    assert (
        simulation.finished[0].end_ns >= weight_bytes(simulation.instances[0].spec.model, 2) * 2 // BANDWIDTH
    )


def test_kv_elsewhere_is_read_before_attention_and_written_after_rope(tmp_path):
    cluster = cluster_with(tmp_path, placed(tmp_path, default={"kv_loc": "cpu"}))
    (spec,) = cluster.instances
    (graph,) = build_graphs(build_shape(spec))
    accesses = [(node.kind, node.name) for node in graph.nodes if node.copy_engine]
    assert accesses == [
        (NodeKind.MEM_STORE, "rope_5_kv_store"),
        (NodeKind.MEM_LOAD, "attn_6_kv_load"),
        (NodeKind.MEM_STORE, "rope_17_kv_store"),
        (NodeKind.MEM_LOAD, "attn_18_kv_load"),
    ]
    deps = {node.name: {graph.nodes[one].name for one in node.data_deps} for node in graph.nodes}
    assert deps["attn_6"] == {"rope_5", "attn_6_kv_load"}


def test_kv_elsewhere_is_limited_by_its_place_and_counts_all_bytes(tmp_path):
    cluster = cluster_with(tmp_path, placed(tmp_path, default={"kv_loc": "cxl:0"}))
    (spec,) = cluster.instances
    assert spec.memory.kv_bytes_per_block == 0
    assert spec.memory.kv_blocks == 2**30 // (16 * KV_BYTES_PER_TOKEN)


def test_kv_bytes_moved_are_kv_bytes_needed(tmp_path):
    cluster = cluster_with(tmp_path, placed(tmp_path, default={"kv_loc": "cpu"}))
    seen: list[tuple[int, int]] = []

    class Watch:
        def on_submit(self, instance, trace, ticket):
            read, write = trace.shape.streams_kv
            seen.append((int(trace.sizes[read.slot]), int(trace.sizes[write.slot])))

        def on_iteration(self, *_):
            pass

    simulate(cluster, requests((100, 4)), observers=[Watch()])
    layer = KV_BYTES_PER_TOKEN // 2
    assert seen == [
        (context * layer, tokens * layer) for context, tokens in ((0, 100), (100, 1), (101, 1), (102, 1))
    ]


def test_local_offloading_reads_every_weight_from_the_npus_own_memory(tmp_path):
    section = instance(tmp_path)
    section["npu_mem"]["mem_bw"] = BANDWIDTH
    config = SimulationConfig(local_offloading=True)
    file = tmp_path / "cluster.json"
    cluster_with(tmp_path, section)
    cluster = load_cluster(file, config)
    plain = load_cluster(file, SimulationConfig())
    assert cluster.instances[0].memory == plain.instances[0].memory  # weights stay where they are
    loads_ns = weight_bytes(cluster.instances[0].model) // BANDWIDTH
    end_ns = simulate(cluster, requests((10, 1)), config).finished[0].end_ns
    assert loads_ns < end_ns <= loads_ns + first_iteration_ns(plain)


def test_two_instances_with_local_offloading_do_not_meet(tmp_path):
    section, config = instance(tmp_path), SimulationConfig(local_offloading=True)
    section["npu_mem"]["mem_bw"] = BANDWIDTH
    cluster_with(tmp_path, section, section)
    cluster = load_cluster(tmp_path / "cluster.json", config)
    first, second = (one.end_ns for one in simulate(cluster, requests((10, 1), (10, 1)), config).finished)
    assert second - first < 100  # token ids come from the host that they share


def test_a_kv_place_that_is_too_small_is_refused_with_numbers(tmp_path):
    section = placed(tmp_path, default={"kv_loc": "cpu"})
    with pytest.raises(
        InputError, match=r"cpu_mem.mem_size: cpu has 0.000 GB beside weights for the KV of 1 inst"
    ):
        cluster_with(tmp_path, section, mem_size=4e-6)

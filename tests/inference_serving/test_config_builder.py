"""From a cluster config to a cluster: units, numbering, what an instance overrides, and the engine's inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusters import TINY_MODEL, cluster_file, instance, make_cluster

from astra_sim import MemoryConfig, NetworkConfig, SystemConfig
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, NodeSpec, Role
from inference_serving.config_builder import load_cluster
from inference_serving.engine_inputs import memory_configs, network_config, system_config
from inference_serving.memory_model import Precision
from inference_serving.settings import SchedulerSettings, SimulationConfig

SHIPPED = sorted((Path(__file__).parents[2] / "cluster_config").glob("*.json"))


def two_nodes(folder: Path, **cpu_mem: Any) -> Path:
    """Node 0 with instances of one and two NPUs, node 1 with one of four; ``cpu_mem`` is that of node 1."""
    file = cluster_file(folder, [instance(folder, 1), instance(folder, 2)])
    config = json.loads(file.read_text())
    first = config["nodes"][0]
    second = {
        "num_instances": 1,
        "cpu_mem": {**first["cpu_mem"], **cpu_mem},
        "instances": [instance(folder, 4)],
    }
    file.write_text(json.dumps({**config, "num_nodes": 2, "nodes": [first, second]}))
    return file


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_config_loads(file):
    cluster = load_cluster(file, SimulationConfig())
    assert min(spec.memory.kv_blocks for spec in cluster.instances) > 1000


def test_llama_8b_on_40_gb_leaves_10773_blocks_of_16_tokens():
    """0.9 * 40 * 2^30 bytes, less 8,030,261,248 weights of 2 bytes, in blocks of 16 * 131,072 bytes."""
    file = next(file for file in SHIPPED if file.stem == "single_node_single_instance")
    (spec,) = load_cluster(file, SimulationConfig()).instances
    kv_bytes_per_token = 32 * 2 * 8 * 128 * 2  # layers, K and V, heads, elements of a head, bytes
    assert kv_bytes_per_token == 131_072
    assert spec.memory.usable_bytes == 38_654_705_664
    assert spec.memory.weight_bytes == 16_060_522_496
    assert spec.memory.kv_bytes_per_block == 16 * kv_bytes_per_token
    assert spec.memory.kv_blocks == (38_654_705_664 - 16_060_522_496) // (16 * 131_072) == 10_773


def test_an_instance_has_what_its_section_says(tmp_path):
    section = instance(tmp_path, 2, hardware="A6000", npu_mem={"mem_size": 2, "mem_bw": 700})
    (spec,) = make_cluster(tmp_path, [section]).instances
    assert (spec.hardware, spec.tp_size, spec.mem_bw_gbps, spec.role) == ("A6000", 2, 700, Role.COLOCATED)
    assert spec.model.name == "tiny"
    assert spec.memory.usable_bytes == int(2 * 2**30 * 0.9)
    assert spec.scheduler == SchedulerSettings()
    assert spec.precision == Precision(16, 16)


def test_npus_and_instances_are_numbered_through_all_nodes_in_file_order(tmp_path):
    cluster = load_cluster(two_nodes(tmp_path), SimulationConfig())
    numbers = [(spec.instance_id, spec.node_id, spec.npus) for spec in cluster.instances]
    assert numbers == [(0, 0, (0,)), (1, 0, (1, 2)), (2, 1, (3, 4, 5, 6))]


def test_a_node_has_the_npus_of_its_instances_and_its_host_memory(tmp_path):
    cluster = load_cluster(two_nodes(tmp_path, mem_bw=100, mem_latency=7), SimulationConfig())
    assert cluster.nodes == (
        NodeSpec(0, (0, 1, 2), 256, 0, 128 * 2**30),
        NodeSpec(1, (3, 4, 5, 6), 100, 7, 128 * 2**30),
    )
    assert cluster.npu_count == 7


@pytest.mark.parametrize(
    "spelling",
    [
        {"npu_num": 4, "npu_group": 1},
        {"npu_num": 4},
        {"num_npus": 4, "pp_size": 1},
        {"tp_size": 4},
        {"tp_size": 4, "npu_num": 4, "num_npus": 4, "npu_group": 1, "pp_size": 1},
    ],
    ids=", ".join,
)
def test_the_number_of_npus_can_be_spelled_in_the_old_and_the_new_way(tmp_path, spelling):
    section = instance(tmp_path)
    del section["npu_num"], section["npu_group"]
    (spec,) = make_cluster(tmp_path, [section | spelling]).instances
    assert spec.npus == (0, 1, 2, 3)


def test_an_instance_that_says_nothing_of_npus_has_one(tmp_path):
    section = instance(tmp_path)
    del section["npu_num"], section["npu_group"], section["pd_type"]
    (spec,) = make_cluster(tmp_path, [section]).instances
    assert (spec.npus, spec.role) == ((0,), Role.COLOCATED)


def test_roles_come_from_pd_type_and_npu_counts_may_differ(tmp_path):
    sections = [instance(tmp_path, npus, role) for npus, role in [(4, "prefill"), (1, "decode"), (2, None)]]
    cluster = make_cluster(tmp_path, sections)
    found = [[spec.instance_id for spec in cluster.with_role(role)] for role in Role]
    assert dict(zip(Role, found, strict=True)) == {Role.COLOCATED: [2], Role.PREFILL: [0], Role.DECODE: [1]}


def test_a_prefill_instance_may_batch_in_another_way_than_its_decode_instance(tmp_path):
    prefill = instance(tmp_path, pd_type="prefill", block_size=32, max_num_batched_tokens=8192)
    cluster = make_cluster(tmp_path, [prefill, instance(tmp_path, pd_type="decode")])
    assert [spec.scheduler.block_size for spec in cluster.instances] == [32, 16]


COMMAND_LINE = SchedulerSettings(
    max_num_seqs=100,
    max_num_batched_tokens=1000,
    block_size=8,
    enable_chunked_prefill=True,
    long_prefill_token_threshold=10,
    reserve_full_isl=True,
    prioritize_prefill=False,
    scheduling_policy="fcfs",
)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ({}, {}),
        ({"max_batch": 4}, {"max_num_seqs": 4}),
        ({"max_num_seqs": 4}, {"max_num_seqs": 4}),
        ({"max_batch": 4, "max_num_seqs": 4}, {"max_num_seqs": 4}),
        ({"max_num_seqs": 0}, {"max_num_seqs": 0}),
        ({"max_num_batched_tokens": 64}, {"max_num_batched_tokens": 64}),
        ({"max_num_batched_tokens": 0}, {"max_num_batched_tokens": 0}),
        ({"long_prefill_token_threshold": 0}, {"long_prefill_token_threshold": 0}),
        (
            {"enable_chunked_prefill": False, "long_prefill_token_threshold": 0},
            {"enable_chunked_prefill": False, "long_prefill_token_threshold": 0},
        ),
        ({"reserve_full_isl": False}, {"reserve_full_isl": False}),
        ({"prioritize_prefill": True}, {"prioritize_prefill": True}),
        ({"async_scheduling": True}, {"async_scheduling": True}),
        ({"scheduling_policy": "priority"}, {"scheduling_policy": "priority"}),
        ({"block_size": 32}, {"block_size": 32}),
        ({"max_batch": None, "block_size": None, "scheduling_policy": None}, {}),
    ],
)
def test_an_instance_overrides_the_settings_it_gives_and_keeps_the_command_lines_for_the_others(
    tmp_path, section, changes
):
    config = SimulationConfig(scheduler=COMMAND_LINE)
    sections = [instance(tmp_path, **section), instance(tmp_path)]
    overriding, other = make_cluster(tmp_path, sections, config).instances
    assert overriding.scheduler == replace(COMMAND_LINE, **changes)
    assert other.scheduler == COMMAND_LINE


def test_an_instance_has_blocks_of_its_own_size(tmp_path):
    sections = [instance(tmp_path, kv_tokens=1000), instance(tmp_path, kv_tokens=1000, block_size=32)]
    small, large = (spec.memory for spec in make_cluster(tmp_path, sections).instances)
    assert large.kv_bytes_per_block == 2 * small.kv_bytes_per_block
    assert (small.kv_blocks, large.kv_blocks) == (1000 // 16, 1000 // 32)


@pytest.mark.parametrize(("kv_tokens", "blocks"), [(17, 1), (33, 2)])
def test_one_block_beside_the_weights_is_enough(tmp_path, kv_tokens, blocks):
    (spec,) = make_cluster(tmp_path, [instance(tmp_path, kv_tokens=kv_tokens)]).instances
    assert spec.memory.kv_blocks == blocks


def test_weights_that_leave_no_room_for_a_block_are_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        make_cluster(tmp_path, [instance(tmp_path, kv_tokens=15)])
    assert caught.value.field == "nodes[0].instances[0].npu_mem.mem_size"


def test_stated_kv_blocks_take_the_place_of_those_that_fit(tmp_path):
    section = instance(tmp_path, kv_tokens=160)
    own = {**section, "npu_mem": {**section["npu_mem"], "kv_blocks": 3}}

    def blocks(config: SimulationConfig) -> list[int]:
        return [spec.memory.kv_blocks for spec in make_cluster(tmp_path, [section, own], config).instances]

    assert blocks(SimulationConfig()) == [10, 3]
    assert blocks(SimulationConfig(num_gpu_blocks_override=12)) == [12, 3]


def test_stated_kv_blocks_need_no_room_beside_the_weights(tmp_path):
    section = instance(tmp_path, kv_tokens=15)
    section["npu_mem"] |= {"kv_blocks": 20}
    (spec,) = make_cluster(tmp_path, [section]).instances
    assert spec.memory.kv_blocks == 20


def test_an_instance_overrides_the_share_of_memory_in_use(tmp_path):
    section = instance(tmp_path)
    section["npu_mem"] |= {"mem_size": 2}
    sections = [section, {**section, "npu_mem": {**section["npu_mem"], "mem_util": 0.25}}]
    config = SimulationConfig(npu_memory_utilization=0.5)
    usable = [spec.memory.usable_bytes for spec in make_cluster(tmp_path, sections, config).instances]
    assert usable == [2**30, 2**29]


@pytest.mark.parametrize(
    ("bits", "section", "expected"),
    [
        ((16, None), {}, (16, 16)),
        ((16, 8), {}, (16, 8)),
        ((8, None), {}, (8, 8)),
        ((16, None), {"dtype": "fp8"}, (8, 8)),
        ((16, None), {"dtype": "float32"}, (32, 32)),
        ((16, 8), {"dtype": "float32"}, (32, 8)),
        ((8, None), {"dtype": "auto"}, (8, 8)),
        ((16, None), {"kv_cache_dtype": "fp8"}, (16, 8)),
        ((16, 8), {"kv_cache_dtype": "auto"}, (16, 16)),
        ((16, None), {"dtype": "float32", "kv_cache_dtype": "fp8"}, (32, 8)),
        ((16, None), {"dtype": "fp8", "kv_cache_dtype": "auto"}, (8, 8)),
    ],
)
def test_an_instance_overrides_the_precision_and_its_kv_follows_its_weights(
    tmp_path, bits, section, expected
):
    weight_bits, kv_bits = bits
    config = SimulationConfig(weight_bits=weight_bits, kv_bits=kv_bits)
    (spec,) = make_cluster(tmp_path, [instance(tmp_path, kv_tokens=9999, **section)], config).instances
    assert spec.precision == Precision(*expected)


def test_the_precision_of_an_instance_changes_its_weights_and_blocks(tmp_path):
    sections = [instance(tmp_path), instance(tmp_path, dtype="fp8"), instance(tmp_path, kv_cache_dtype="fp8")]
    normal, small, small_kv = (spec.memory for spec in make_cluster(tmp_path, sections).instances)
    assert small.weight_bytes * 2 == normal.weight_bytes == small_kv.weight_bytes
    assert small.kv_bytes_per_block * 2 == normal.kv_bytes_per_block == small_kv.kv_bytes_per_block * 2


def test_the_network_connects_all_npus_of_all_nodes_with_the_configs_link(tmp_path):
    file = two_nodes(tmp_path)
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "link_bw": 56.25, "link_latency": 500}))
    cluster = load_cluster(file, SimulationConfig())
    assert network_config(cluster) == NetworkConfig(
        topology=("FullyConnected",), npus_count=(7,), bandwidth_gbps=(56.25,), latency_ns=(500,)
    )


def test_a_single_npu_has_a_network_too(tmp_path):
    assert network_config(make_cluster(tmp_path, [instance(tmp_path)])).npus_count == (1,)


def test_the_engine_reduces_at_the_speed_of_the_slowest_npu_memory(tmp_path):
    slow = instance(tmp_path)
    slow["npu_mem"] = {**slow["npu_mem"], "mem_bw": 768}
    cluster = make_cluster(tmp_path, [instance(tmp_path), slow])
    assert system_config(cluster) == SystemConfig(
        scheduling_policy="LIFO",
        endpoint_delay_ns=10,
        active_chunks_per_dimension=1,
        preferred_dataset_splits=1,
        all_reduce=("ring",),
        all_gather=("ring",),
        reduce_scatter=("ring",),
        all_to_all=("ring",),
        collective_optimization="localBWAware",
        local_mem_bw_gbps=768,
    )


def test_every_npu_uses_the_host_memory_of_its_node(tmp_path):
    cluster = load_cluster(two_nodes(tmp_path), SimulationConfig())
    assert memory_configs(cluster) == [
        MemoryConfig(
            memory_type="PER_NODE_MEMORY_EXPANSION",
            bandwidth_gbps=256,
            latency_ns=0,
            node_of_npu=(0, 0, 0, 1, 1, 1, 1),
        )
    ]


def test_host_memories_may_differ_in_speed(tmp_path):
    (host,) = memory_configs(load_cluster(two_nodes(tmp_path, mem_bw=100, mem_latency=7), SimulationConfig()))
    assert (host.node_bandwidth_gbps, host.node_latency_ns) == ((256, 100), (0, 7))


def test_host_memories_may_differ_in_size(tmp_path):
    cluster = load_cluster(two_nodes(tmp_path, mem_size=1), SimulationConfig())
    assert len(memory_configs(cluster)) == 1


def test_a_cluster_knows_its_file_and_its_link(tmp_path):
    file = cluster_file(tmp_path, [instance(tmp_path)], link_bw=50, link_latency=3)
    cluster = load_cluster(file, SimulationConfig())
    assert isinstance(cluster, Cluster)
    assert (cluster.file, cluster.network.bandwidth_gbps, cluster.network.latency_ns) == (file, (50,), (3,))


def test_a_model_by_path_is_read_relative_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(TINY_MODEL))
    monkeypatch.chdir(tmp_path)
    (spec,) = make_cluster(tmp_path, [instance(tmp_path, model_name="mine.json")]).instances
    assert spec.model.name == "mine"

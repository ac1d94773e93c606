"""Config files: what is written is read back, and what is wrong is named with file, field and remedy."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim import (
    InputError,
    MemoryConfig,
    NetworkConfig,
    SystemConfig,
    read_comm_groups,
    read_memories,
    read_network,
    read_system,
    write_comm_groups,
    write_memories,
    write_network,
    write_system,
)

POSITIVE = st.floats(1e-6, 1e9)
WIRINGS = st.sampled_from(["Ring", "Switch", "FullyConnected"])
DIMENSIONS = st.lists(
    st.tuples(WIRINGS, st.integers(1, 9), POSITIVE, st.floats(0, 1e9)), min_size=1, max_size=4
)


@given(DIMENSIONS)
@settings(max_examples=50)
def test_a_network_is_read_back_equal(tmp_path_factory, dimensions):
    topology, npus, bandwidth, latency = map(tuple, zip(*dimensions, strict=True))
    config = NetworkConfig(topology=topology, npus_count=npus, bandwidth_gbps=bandwidth, latency_ns=latency)
    path = tmp_path_factory.mktemp("net") / "network.yml"
    write_network(path, config)
    assert read_network(path) == config


@pytest.mark.parametrize(
    "config",
    [
        SystemConfig(),
        SystemConfig(
            scheduling_policy="EXPLICIT",
            endpoint_delay_ns=7,
            active_chunks_per_dimension=2,
            preferred_dataset_splits=8,
            all_reduce=("ring", "ring"),
            collective_optimization="localBWAware",
            local_mem_bw_gbps=3350.5,
            peak_perf_tflops=989,
            roofline_enabled=True,
            replay_only=True,
        ),
    ],
)
def test_a_system_is_read_back_equal(tmp_path, config):
    write_system(tmp_path / "system.json", config)
    assert read_system(tmp_path / "system.json") == config


@pytest.mark.parametrize(
    "memories",
    [
        [],
        [MemoryConfig(memory_type="PER_NPU_MEMORY_EXPANSION", latency_ns=3, bandwidth_gbps=256.5)],
        [
            MemoryConfig(memory_type="PER_NODE_MEMORY_EXPANSION", node_of_npu=(0, 0, 1)),
            MemoryConfig(memory_type="MEMORY_POOL", num_devices=1),
        ],
        [MemoryConfig(memory_type="NO_MEMORY_EXPANSION"), MemoryConfig(memory_type="MEMORY_POOL")],
        [
            MemoryConfig(
                memory_type="PER_NODE_MEMORY_EXPANSION",
                node_of_npu=(0, 0, 1),
                node_bandwidth_gbps=(256, 128),
                node_latency_ns=(0, 5),
            ),
            *[MemoryConfig(memory_type="MEMORY_POOL", latency_ns=250)] * 4,
            MemoryConfig(memory_type="PER_NODE_MEMORY_EXPANSION", node_of_npu=(0, 1, 2)),
        ],
    ],
)
def test_memories_are_read_back_equal(tmp_path, memories):
    write_memories(tmp_path / "memory.json", memories)
    assert read_memories(tmp_path / "memory.json") == memories


def test_groups_are_read_back_equal(tmp_path):
    write_comm_groups(tmp_path / "groups.json", {"1": (2, 0), "2": (1,)})
    assert read_comm_groups(tmp_path / "groups.json") == {"1": (2, 0), "2": (1,)}


def test_both_forms_of_the_memory_file_are_read(tmp_path):
    flat = {"memory-type": "PER_NODE_MEMORY_EXPANSION", "remote-mem-latency": 9, "remote-mem-bw": 100.9}
    (tmp_path / "flat.json").write_text(json.dumps(flat | {"num-nodes": 2, "num-npus-per-node": 2}))
    assert read_memories(tmp_path / "flat.json") == [
        MemoryConfig(
            memory_type="PER_NODE_MEMORY_EXPANSION",
            latency_ns=9,
            bandwidth_gbps=100,
            num_nodes=2,
            num_npus_per_node=2,
        )
    ]
    fork = {"memory-type": "MEMORY_POOL", "mem-bw": 256, "mem-latency": 5, "num-devices": 1}
    (tmp_path / "fork.json").write_text(json.dumps({"remote_mem": fork, "cxl_mem": fork}))
    assert (
        read_memories(tmp_path / "fork.json")
        == [MemoryConfig(memory_type="MEMORY_POOL", latency_ns=5, bandwidth_gbps=256)] * 2
    )


SYSTEM = {"scheduling-policy": "LIFO", "preferred-dataset-splits": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scheduling-policy": None},
            "scheduling-policy: None: input should be 'LIFO', 'FIFO' or 'EXPLICIT'",
        ),
        ({"endpoint-delay": -1}, "endpoint-delay: -1: input should be greater than or equal to 0"),
        (
            {"all-reduce-implementation": ["rung"]},
            "all-reduce-implementation[0]: 'rung' is not a collective algorithm; use ring, direct, direct with a "
            "window (direct4), halvingDoubling, doubleBinaryTree, oneRing, oneDirect or oneHalvingDoubling",
        ),
        (
            {"model-shared-bus": 1},
            "model-shared-bus: 1: not supported: the shared bus; set endpoint-delay instead; remove the key",
        ),
        ({"peak_perf": 1}, "peak_perf: unknown field; did you mean 'peak-perf'?"),
    ],
)
def test_a_wrong_system_is_named(tmp_path, changes, message):
    path = tmp_path / "system.json"
    path.write_text(json.dumps(SYSTEM | changes))
    with pytest.raises(InputError) as error:
        read_system(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("key", SYSTEM)
def test_a_system_needs_the_keys_that_astra_sim_needs(tmp_path, key):
    path = tmp_path / "system.json"
    path.write_text(json.dumps({k: v for k, v in SYSTEM.items() if k != key}))
    with pytest.raises(InputError, match=f"system.json: {key}: this field is required"):
        read_system(path)


def test_keys_that_astra_sim_does_not_read_are_accepted(tmp_path):
    path = tmp_path / "system.json"
    path.write_text(
        json.dumps(SYSTEM | {"boost-mode": 1, "intra-dimension-scheduling": "FIFO", "comment": "x", "L": 5})
    )
    assert read_system(path) == SystemConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "topology: [Mesh]\nnpus_count: [2]\nbandwidth: [1]\nlatency: [1]",
            "topology[0]: 'Mesh' is not a topology; use one of FullyConnected, Ring, Switch",
        ),
        (
            "topology: [Ring]\nnpus_count: [2]\nbandwidth: [0]\nlatency: [1]",
            "bandwidth[0]: 0: input should be greater than 0",
        ),
        (
            "topology: [Ring]\nnpus_count: [2, 2]\nbandwidth: [1]\nlatency: [1]",
            "npus_count has 2 entries, topology has 1; give one per dimension",
        ),
        ("topology: [Ring]\nnpus_count: [2]\nbandwidth: [1]", "latency: this field is required"),
        (
            "topology: [Ring]\nnpus_count: [2]\nbandwidth: [1]\nlatency: [1]\nlinks: 2",
            "links: unknown field; check the spelling",
        ),
    ],
)
def test_a_wrong_network_is_named(tmp_path, text, message):
    path = tmp_path / "network.yml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_network(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"memory-type": "DISK"}, "memory-type: 'DISK': input should be 'NO_MEMORY_EXPANSION', "),
        ({"memory-type": "MEMORY_POOL", "remote-mem-bw": 5}, "remote-mem-latency: this field is required"),
        ({}, "memory-type: this field is required (or the objects remote_mem and cxl_mem and local_mem)"),
        (
            {"remote_mem": {"memory-type": "MEMORY_POOL", "mem-bw": 0}},
            "remote_mem.mem-bw: 0: input should be greater than 0",
        ),
    ],
)
def test_a_wrong_memory_is_named(tmp_path, data, message):
    path = tmp_path / "memory.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        read_memories(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"0": [1]}, "0: a group id must be an integer above 0"),
        ({"1": []}, "1: a group must be a list of NPU numbers with at least one member"),
        ({"1": [0, -1]}, "1[1]: -1: must be an NPU number, 0 or above"),
        ({"1": [0, 0]}, "1: an NPU is listed twice"),
    ],
)
def test_a_wrong_group_is_named(tmp_path, data, message):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        read_comm_groups(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_missing_file_is_named(tmp_path):
    for reader in (read_network, read_system, read_memories, read_comm_groups):
        with pytest.raises(InputError, match="none: no such file"):
            reader(tmp_path / "none")

"""Memories outside the NPUs."""

from __future__ import annotations

import pytest
from astra_sim_builders import engine, load, run

from astra_sim import MemoryConfig

ALONE = 1000 + 50
"""A load of 5000 bytes: 1000 ns latency, 100 GB/s."""


def memory(kind: str, **more):
    return MemoryConfig(memory_type=kind, latency_ns=1000, bandwidth_gbps=100, **more)


@pytest.mark.parametrize(
    ("config", "turns"),
    [
        (memory("PER_NPU_MEMORY_EXPANSION"), 1),
        (memory("PER_NODE_MEMORY_EXPANSION", num_nodes=2, num_npus_per_node=2), 2),
        (memory("PER_NODE_MEMORY_EXPANSION", node_of_npu=(0, 1, 1, 1)), 3),
        (memory("PER_NODE_MEMORY_EXPANSION"), 4),
        (memory("MEMORY_POOL"), 4),
    ],
)
def test_npus_that_share_a_memory_take_turns(config, turns):
    assert run(engine(4, memories=[config]), [[load(0)]] * 4, sizes=[5000]) == turns * ALONE


def test_a_node_chooses_its_memory():
    memories = [memory("PER_NPU_MEMORY_EXPANSION"), MemoryConfig(memory_type="MEMORY_POOL", latency_ns=7)]
    assert run(engine(1, memories=memories), [[load(0, memory=1)]], sizes=[100]) == 107


def test_a_fraction_of_a_ns_is_cut():
    assert run(engine(1, memories=[memory("MEMORY_POOL")]), [[load(0)]], sizes=[199]) == 1001


def test_a_load_without_memory_is_refused():
    with pytest.raises(ValueError, match=r"NPU 0, node 3 \(load3\): memory node, but no memory is conf"):
        run(engine(1), [[load(3)]], sizes=[1])


def test_nodes_must_cover_the_npus():
    with pytest.raises(ValueError, match="node-of-npu has 2 entries, the network has 4 NPUs"):
        engine(4, memories=[memory("PER_NODE_MEMORY_EXPANSION", node_of_npu=(0, 1))])


def test_nodes_may_have_memories_of_their_own_speed():
    config = memory(
        "PER_NODE_MEMORY_EXPANSION",
        node_of_npu=(0, 0, 1, 1),
        node_bandwidth_gbps=(100, 10),
        node_latency_ns=(0, 7),
    )
    simulation = engine(4, memories=[config])
    assert run(simulation, [[load(0)]] * 4, sizes=[5000]) == 2 * (7 + 500)
    assert [simulation.npu_stats(npu).finish_ns for npu in range(4)] == [50, 100, 507, 1014]


def test_loads_by_the_copy_engine_take_no_unit_but_queue_at_their_memory():
    devices = [MemoryConfig(memory_type="MEMORY_POOL", bandwidth_gbps=100)] * 2
    nodes = [load(number, memory=number % 2, copy_engine=True) for number in range(4)]
    assert run(engine(1, memories=devices), [nodes], sizes=[5000]) == 2 * 50
    nodes = [load(number, memory=number % 2) for number in range(4)]
    assert run(engine(1, memories=devices), [nodes], sizes=[5000]) == 4 * 50

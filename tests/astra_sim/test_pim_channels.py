"""Memories whose channels compute (processing in memory)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astra_sim_builders import comp, engine, load, run

from astra_sim import Graph, MemoryConfig, Node, NodeKind, read_graphs, write_graphs, write_memories
from astra_sim.memory_config import read_memories


def memory(**more):
    return MemoryConfig(
        memory_type="PER_NODE_MEMORY_EXPANSION", latency_ns=5, bandwidth_gbps=1, pim_channels=2, **more
    )


def in_memory(node_id: int, channel: int, slot: int = 0, parents: tuple[int, ...] = ()) -> Node:
    return Node(
        node_id, NodeKind.COMP, f"pim{node_id}", data_deps=parents, duration_slot=slot, pim_channel=channel
    )


def finish(graphs, durations, *, memories=None, sizes=(), npus=1) -> int:
    return run(engine(npus, memories=memories or [memory()]), graphs, durations=durations, sizes=sizes)


def test_channels_compute_side_by_side_and_each_one_thing_at_a_time():
    assert finish([[in_memory(0, 0), in_memory(1, 1)]], [100]) == 100
    assert finish([[in_memory(0, 0), in_memory(1, 0)]], [100]) == 200


def test_the_npu_computes_and_the_memory_serves_meanwhile():
    assert finish([[in_memory(0, 0), comp(1, slot=1), load(2)]], [100, 70], sizes=[60]) == 100


def test_what_follows_waits_for_all_channels():
    after = Node(2, NodeKind.COMP, "after", data_deps=(0, 1), duration_slot=1)
    assert finish([[in_memory(0, 0), in_memory(1, 1), after]], [100, 7]) == 107


def test_an_idle_channel_takes_no_time():
    assert finish([[in_memory(0, 0), comp(1, 0, slot=1)]], [0, 7]) == 7


def test_npus_of_a_node_share_its_channels_and_other_nodes_have_their_own():
    graphs = [[in_memory(0, 1)]] * 3
    assert finish(graphs, [100], npus=3) == 300
    assert finish(graphs, [100], npus=3, memories=[memory(node_of_npu=(0, 1, 2))]) == 100


@pytest.mark.parametrize(
    ("node", "memories", "why"),
    [
        (in_memory(0, 2), [memory()], r"node 0 \(pim0\): runs in PIM channel 2; memory 0 has 2"),
        (
            in_memory(0, 0),
            [MemoryConfig(memory_type="MEMORY_POOL")],
            "runs in PIM channel 0; memory 0 has 0",
        ),
        (in_memory(0, 0), [], "no memory is configured"),
        (
            Node(0, NodeKind.MEM_LOAD, size_slot=0, pim_channel=0),
            [memory()],
            "only a compute node of the NPU can run in a PIM channel",
        ),
    ],
)
def test_what_cannot_run_in_memory_is_refused(node, memories, why):
    with pytest.raises(ValueError, match=why):
        engine(1, memories=memories).compile([Graph((node,))])


def test_private_memories_have_no_channels():
    with pytest.raises(ValueError, match="'PER_NPU_MEMORY_EXPANSION' has no PIM channels"):
        engine(1, memories=[MemoryConfig(memory_type="PER_NPU_MEMORY_EXPANSION", pim_channels=1)])


@pytest.mark.parametrize("dialect", ["chakra", "kaist"])
def test_trace_files_keep_the_channel(tmp_path: Path, dialect):
    graph = Graph((in_memory(0, 1), comp(1, 0, slot=1)))
    write_graphs(tmp_path / "llm", [graph], np.array([100, 7]), np.array([], dtype=np.int64), dialect=dialect)
    (read,), durations_ns, _ = read_graphs(tmp_path / "llm", 1, dialect=dialect)
    assert [node.pim_channel for node in read.nodes] == [1, None]
    assert durations_ns.tolist() == [100, 7]


def test_memory_files_keep_the_channels(tmp_path: Path):
    file = tmp_path / "memory.json"
    write_memories(file, [memory()])
    assert json.loads(file.read_text())["remote_mem"]["pim-channels"] == 2
    assert read_memories(file) == [memory()]


def test_the_published_form_is_read(tmp_path: Path):
    """Numbers as LLMServingSim 2.0 writes them; a fraction of a ns is cut."""
    file = tmp_path / "memory.json"
    published = {"memory-type": "PER_NODE_MEMORY_EXPANSION", "mem-bw": 1638.4, "mem-latency": 13.86}
    file.write_text(json.dumps({"remote_mem": {**published, "num-devices": 1, "pim-channels": 64.0}}))
    (read,) = read_memories(file)
    assert (read.latency_ns, read.pim_channels) == (13, 64)

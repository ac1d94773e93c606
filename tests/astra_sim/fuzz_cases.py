"""Random systems, workloads that must finish, and inputs that may be anything: what the fuzz tests draw from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from astra_sim_builders import numbers
from hypothesis import strategies as st

from astra_sim import (
    CollectiveKind,
    EtRecord,
    Graph,
    MemoryConfig,
    NetworkConfig,
    Node,
    NodeKind,
    SystemConfig,
    write_comm_groups,
    write_et,
    write_graphs,
    write_memories,
    write_network,
    write_system,
)

WIRINGS = ("Ring", "Switch", "FullyConnected")
REDUCING = (CollectiveKind.ALL_REDUCE, CollectiveKind.REDUCE_SCATTER)
KINDS = (*REDUCING, CollectiveKind.ALL_GATHER, CollectiveKind.ALL_TO_ALL)
FIELD_OF_KIND = {kind: kind.name.lower() for kind in KINDS}
GROUPS = {"1": (0, 1), "2": (1, 0)}
"""Groups that exist in every system of two NPUs or more."""


@dataclass(frozen=True)
class System:
    """Hardware, configuration and flags of one run."""

    network: NetworkConfig
    system: SystemConfig
    memory: MemoryConfig
    flags: tuple[str, ...] = ()

    @property
    def npus(self) -> int:
        return self.network.npu_total

    def write(self, folder: Path) -> list[str]:
        """Write the configuration files; returns the command line that names them, without the workload."""
        write_network(folder / "network.yml", self.network)
        write_system(folder / "system.json", self.system)
        write_memories(folder / "memory.json", [self.memory])
        return [
            f"--workload-configuration={folder}/trace",
            f"--system-configuration={folder}/system.json",
            f"--network-configuration={folder}/network.yml",
            f"--remote-memory-configuration={folder}/memory.json",
            *self.flags,
        ]


@dataclass(frozen=True)
class Workload:
    """Graphs with their numbers."""

    graphs: list[Graph]
    durations_ns: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def write(self, folder: Path) -> list[str]:
        """Write the traces; returns the flag that names their groups."""
        groups = write_graphs(
            folder / "trace", self.graphs, numbers(*self.durations_ns), numbers(*self.sizes)
        )
        write_comm_groups(folder / "groups.json", groups)
        return [f"--comm-group-configuration={folder}/groups.json"]


def _algorithms(draw: Any, kind: CollectiveKind, npus: Sequence[int]) -> tuple[str, ...]:
    """Names that can run the collective on these dimensions."""
    if draw(st.integers(0, 3)) == 0:
        flat = ["oneRing", "oneDirect", "oneDirect2"]
        if math.log2(math.prod(npus)).is_integer() and kind != CollectiveKind.ALL_TO_ALL:
            flat.append("oneHalvingDoubling")
        return (draw(st.sampled_from(flat)),)
    names = []
    for count in npus:
        able = ["ring", "direct", "direct1", "direct3"]
        if math.log2(count).is_integer():
            able.append("doubleBinaryTree")
            if kind != CollectiveKind.ALL_TO_ALL:
                able.append("halvingDoubling")
        names.append(draw(st.sampled_from(able)))
    return tuple(names)


@st.composite
def systems(draw: Any) -> System:
    """A system of 2 to 16 NPUs in one to three dimensions, both networks, all algorithms."""
    npus = draw(st.sampled_from([(2,), (3,), (4,), (8,), (5,), (2, 2), (4, 2), (3, 2), (2, 1, 2), (2, 2, 4)]))
    dims = len(npus)
    each = st.tuples(
        *[
            st.tuples(
                st.sampled_from(WIRINGS), st.sampled_from([0.3, 25, 50, 400]), st.sampled_from([0, 0.7, 500])
            )
        ]
        * dims
    )
    wirings, bandwidths, latencies = zip(*draw(each), strict=True)
    network = NetworkConfig(
        topology=wirings, npus_count=npus, bandwidth_gbps=bandwidths, latency_ns=latencies
    )
    system = SystemConfig(
        scheduling_policy=draw(st.sampled_from(["LIFO", "FIFO", "EXPLICIT"])),
        endpoint_delay_ns=draw(st.sampled_from([1, 10, 3000])),
        active_chunks_per_dimension=draw(st.integers(1, 4)),
        preferred_dataset_splits=draw(st.integers(1, 5)),
        collective_optimization=draw(st.sampled_from(["baseline", "localBWAware"])),
        local_mem_bw_gbps=draw(st.sampled_from([0.5, 1600])),
        peak_perf_tflops=100,
        roofline_enabled=draw(st.booleans()),
        replay_only=draw(st.integers(0, 9)) == 0,
        **{FIELD_OF_KIND[kind]: _algorithms(draw, kind, npus) for kind in KINDS},
    )
    memory = MemoryConfig(
        memory_type=draw(
            st.sampled_from(["PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"])
        ),
        latency_ns=draw(st.sampled_from([0, 1000])),
        bandwidth_gbps=100,
    )
    flags = (
        f"--network-backend={draw(st.sampled_from(['aware', 'unaware']))}",
        f"--num-queues-per-dim={draw(st.sampled_from([1, 1, 2, 3]))}",
        f"--rendezvous-protocol={draw(st.sampled_from(['false', 'true']))}",
    )
    return System(network, system, memory, flags)


def _tree_in_groups(system: System) -> bool:
    """Whether groups would run the double binary tree, which they cannot."""
    return ("doubleBinaryTree",) in [getattr(system.system, name) for name in FIELD_OF_KIND.values()]


@st.composite
def finishing(draw: Any) -> tuple[System, Workload]:
    """A system and graphs that must finish: all members issue their collectives in one order."""
    system = draw(systems())
    single_queue = "--num-queues-per-dim=1" in system.flags
    grouped = single_queue and system.npus > 2 and not _tree_in_groups(system)
    graphs: list[list[Node]] = [[] for _ in range(system.npus)]
    for node_id in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["comp", "cpu", "load", "message", "collective", "collective"]))
        if kind == "collective":
            group = draw(st.sampled_from([(), (), (0, 1), (1, 0)])) if grouped else ()
            what = draw(st.sampled_from(KINDS))
            for npu in group or range(system.npus):
                before = tuple(node.node_id for node in graphs[npu] if node.kind == NodeKind.COLL)
                graphs[npu].append(
                    Node(
                        node_id,
                        NodeKind.COLL,
                        "",
                        before,
                        duration_slot=0,
                        size_slot=0,
                        collective=what,
                        group=group,
                    )
                )
        elif kind == "message":
            source, target = draw(st.permutations(range(system.npus)))[:2]
            one = {"size_slot": 1, "tag": node_id, "duration_slot": 0}
            copy = draw(st.booleans())
            graphs[source].append(Node(node_id, NodeKind.SEND, "", peer=target, copy_engine=copy, **one))
            graphs[target].append(Node(node_id, NodeKind.RECV, "", peer=source, **one))
        else:
            npu = draw(st.integers(0, system.npus - 1))
            known = [node.node_id for node in graphs[npu]]
            parents = tuple(draw(st.sets(st.sampled_from(known), max_size=3))) if known else ()
            what = NodeKind.MEM_LOAD if kind == "load" else NodeKind.COMP
            graphs[npu].append(
                Node(
                    node_id,
                    what,
                    "",
                    parents,
                    duration_slot=1,
                    size_slot=2,
                    ops_slot=0,
                    is_cpu_op=kind == "cpu",
                )
            )
    sizes = [draw(st.integers(16, 1 << 24)), draw(st.integers(0, 1 << 20)), draw(st.integers(1, 1 << 40))]
    durations = [draw(st.integers(0, 1000)), draw(st.integers(0, 1 << 40))]
    return system, Workload([Graph(tuple(nodes)) for nodes in graphs], durations, sizes)


def _edits(draw: Any, npus: int) -> dict[str, Any]:
    """Changes of one field of a node, as somebody who is careless would make them."""
    choices: dict[str, Any] = {
        "kind": st.sampled_from([*NodeKind]),
        "data_deps": st.lists(st.integers(0, 9), max_size=2).map(tuple),
        "ctrl_deps": st.lists(st.integers(0, 9), min_size=1, max_size=1).map(tuple),
        "duration_slot": st.sampled_from([0, 1, None]),
        "size_slot": st.sampled_from([0, 1, 2, 3, None]),
        "ops_slot": st.sampled_from([0, 3, None]),
        "collective": st.sampled_from([*CollectiveKind]),
        "group": st.sampled_from([(), (0, 1), (1, 0), (0,), tuple(range(npus))]),
        "involved_dims": st.sampled_from([(True,), (False, True), (True, False, True)]),
        "peer": st.integers(0, npus - 1),
        "tag": st.integers(0, 9),
        "is_cpu_op": st.booleans(),
        "copy_engine": st.booleans(),
        "memory": st.integers(0, 1),
    }
    name = draw(st.sampled_from(list(choices)))
    return {name: draw(choices[name])}


@st.composite
def careless(draw: Any) -> tuple[System, Workload]:
    """Sound graphs of which somebody has dropped nodes and changed others: most of them stall, or are refused."""
    system, workload = draw(finishing())
    graphs = [list(graph.nodes) for graph in workload.graphs]
    for _ in range(draw(st.integers(1, 3))):
        nodes = graphs[draw(st.sampled_from([npu for npu, nodes in enumerate(graphs) if nodes] or [0]))]
        if not nodes:
            break
        at = draw(st.integers(0, len(nodes) - 1))
        if draw(st.integers(0, 3)) == 0:
            gone = nodes.pop(at).node_id
            if draw(st.booleans()):  # and nobody depends on it any more
                nodes[:] = [
                    replace(node, data_deps=tuple(d for d in node.data_deps if d != gone)) for node in nodes
                ]
        else:
            nodes[at] = replace(nodes[at], **_edits(draw, system.npus))
    sizes = [*workload.sizes, draw(st.sampled_from([0, 1, 7, 1 << 53]))]
    return system, Workload([Graph(tuple(nodes)) for nodes in graphs], workload.durations_ns, sizes)


ATTRIBUTES = (
    *("is_cpu_op", "num_ops", "tensor_size", "comm_type", "comm_size", "comm_src", "comm_dst", "comm_tag"),
    *("comm_priority", "pg_name", "involved_dim", "duration_ns", "copy_engine", "memory", "part", "other"),
)
_VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 5, 6, 7, 1000, 1 << 31, 1 << 32, 1 << 53, (1 << 53) + 1, (1 << 64) - 1]),
    st.booleans(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.booleans(), max_size=4).map(tuple),
    st.sampled_from(["", "0", "1", "2", "x"]),
)


@st.composite
def records(draw: Any) -> list[list[EtRecord]]:
    """Traces of two NPUs whose nodes have attributes of any name, type and value."""
    any_id = st.one_of(st.integers(0, 3), st.sampled_from([1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]))
    record = st.builds(
        EtRecord,
        node_id=any_id,
        node_type=st.integers(0, 9),
        name=st.text(max_size=3),
        data_deps=st.lists(any_id, max_size=1).map(tuple),
        ctrl_deps=st.lists(any_id, max_size=1).map(tuple),
        duration_ns=st.sampled_from([None, None, 0, 5, 1 << 53, (1 << 64) - 1]),
        attributes=st.dictionaries(st.sampled_from(ATTRIBUTES), _VALUES, max_size=6),
    )
    return draw(st.lists(st.lists(record, max_size=3), min_size=2, max_size=2))


def write_records(folder: Path, traces: list[list[EtRecord]]) -> list[str]:
    """Write traces of records; returns the flag that names the groups."""
    for npu, trace in enumerate(traces):
        write_et(folder / f"trace.{npu}.et", trace)
    write_comm_groups(folder / "groups.json", GROUPS)
    return [f"--comm-group-configuration={folder}/groups.json"]


@st.composite
def damages(draw: Any) -> list[tuple[str, float, int]]:
    """How to damage a file: (what, where from 0 to 1, with which byte), a few times."""
    what = st.sampled_from(["cut", "flip", "insert", "delete", "repeat"])
    return draw(st.lists(st.tuples(what, st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))


def damaged(data: bytes, what: list[tuple[str, float, int]]) -> bytes:
    """The bytes of a file with all damages done."""
    for how, where, byte in what:
        at = int(where * max(0, len(data) - 1))
        if how == "cut":
            data = data[:at]
        elif how == "flip":
            data = data[:at] + bytes([data[at] ^ byte]) + data[at + 1 :] if data else b""
        elif how == "insert":
            data = data[:at] + bytes([byte]) + data[at:]
        elif how == "delete":
            data = data[:at] + data[at + 1 :]
        else:
            data = data[:at] + data[max(0, at - byte) :]
    return data

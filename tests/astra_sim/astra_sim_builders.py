"""Small builders that let the tests read like a specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from astra_sim import (
    CollectiveKind,
    Completion,
    Engine,
    EngineOptions,
    Graph,
    NetworkConfig,
    Node,
    NodeKind,
    SystemConfig,
)

BYTES_PER_NS = 2**30 / 1e9
"""One GB/s of network bandwidth."""


STEP = 10
"""The default endpoint-delay: ns of a bus trip."""

MIB = 1 << 20


class Dim(NamedTuple):
    """One dimension of a network."""

    wiring: Any
    npus: int
    bandwidth_gbps: float = 50
    latency_ns: float = 500

    def message_ns(self, size: int, hops: int = 1) -> int:
        return message_ns(size, hops, self.bandwidth_gbps, self.latency_ns)

    def transfer_ns(self, size: int) -> int:
        """How long a message of ``size`` bytes keeps a link busy."""
        return message_ns(size, 0, self.bandwidth_gbps)


def network(
    npus: int = 2, wiring: Any = "Switch", bandwidth_gbps: float = 50, latency_ns: float = 500
) -> Any:
    return NetworkConfig.flat(wiring, npus, bandwidth_gbps, latency_ns)


def engine(npus: int = 2, wiring: str = "Switch", memories: Sequence[Any] = (), **system: Any) -> Engine:
    return Engine(network(npus, wiring), SystemConfig(**{"local_mem_bw_gbps": 1600, **system}), memories)


def mesh(
    *dims: Dim, backend: str = "unaware", queues: int = 1, rendezvous: bool = False, **system: Any
) -> Engine:
    """An engine on a network of several dimensions (or one) with options of the command line."""
    wirings, npus, bandwidths, latencies = zip(*dims, strict=True)
    config = NetworkConfig(topology=wirings, npus_count=npus, bandwidth_gbps=bandwidths, latency_ns=latencies)
    options = EngineOptions(backend, queues, rendezvous)
    return Engine(config, SystemConfig(**{"local_mem_bw_gbps": 1600, **system}), (), options)


def comp(node_id: int, *parents: int, slot: int = 0, **more: Any) -> Node:
    return Node(node_id, NodeKind.COMP, f"comp{node_id}", parents, duration_slot=slot, **more)


def send(node_id: int, peer: int, *parents: int, slot: int = 0, **more: Any) -> Node:
    return Node(node_id, NodeKind.SEND, f"send{node_id}", parents, size_slot=slot, peer=peer, **more)


def recv(node_id: int, peer: int, *parents: int, slot: int = 0, **more: Any) -> Node:
    return Node(node_id, NodeKind.RECV, f"recv{node_id}", parents, size_slot=slot, peer=peer, **more)


def load(node_id: int, *parents: int, slot: int = 0, **more: Any) -> Node:
    return Node(node_id, NodeKind.MEM_LOAD, f"load{node_id}", parents, size_slot=slot, **more)


def collective(node_id: int, kind: CollectiveKind, *parents: int, slot: int = 0, **more: Any) -> Node:
    return Node(node_id, NodeKind.COLL, kind.name, parents, size_slot=slot, collective=kind, **more)


def all_reduce(node_id: int, *parents: int, **more: Any) -> Node:
    return collective(node_id, CollectiveKind.ALL_REDUCE, *parents, **more)


def numbers(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def drain(target: Engine) -> list[Completion]:
    """Advance until nothing happens any more."""
    completions = []
    while done := target.advance():
        completions += done
    return completions


def run(
    target: Engine, graphs: Sequence[Sequence[Node]], durations: Sequence[int] = (), sizes: Sequence[int] = ()
) -> int:
    """Run one submission on NPUs 0, 1, ...; returns the time of its last completion."""
    template = target.compile([Graph(tuple(nodes)) for nodes in graphs])
    target.submit(template, range(len(graphs)), numbers(*durations), numbers(*sizes), target.now_ns)
    done = drain(target)
    assert target.stall_report() == []
    return done[-1].finish_ns


def message_ns(size: int, hops: int = 1, bandwidth_gbps: float = 50, latency_ns: float = 500) -> int:
    """hops * latency + size / bandwidth, cut to an integer."""
    return int(hops * latency_ns + size / (bandwidth_gbps * BYTES_PER_NS))


def reduction_ns(size: int, local_mem_bw_gbps: float = 1600) -> int:
    """Three memory accesses, each cut to an integer."""
    return 3 * int(size / (local_mem_bw_gbps * 1e9) * 1e9)


def only(npus: int, graphs: Mapping[int, Sequence[Node]]) -> list[Sequence[Node]]:
    """Graphs of ``npus`` NPUs of which only some have nodes."""
    return [graphs.get(npu, ()) for npu in range(npus)]


def among(npus: int, members: Sequence[int], *nodes: Node) -> list[Sequence[Node]]:
    """The same nodes for each member, none for the other NPUs."""
    return only(npus, dict.fromkeys(members, nodes))


def finishes(target: Engine) -> list[int]:
    """When each NPU finished its last node."""
    return [target.npu_stats(npu).finish_ns for npu in range(target.npu_count)]

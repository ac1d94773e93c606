"""Chains of compute nodes as one node each: the engine runs a few events where it would run hundreds.

A chain ends at the node that anything else waits for: a send, a collective, a store. A fused node takes the
sum of its nodes' times, so every event that remains happens when it did before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from astra_sim import Graph, Node, NodeKind
from inference_serving.request import Int64Array


class FusedGraphs:
    """Graphs whose compute nodes refer to fused durations, which ``durations_ns`` makes of a trace's own."""

    def __init__(self, graphs: Sequence[Graph], duration_slots: int) -> None:
        slots: dict[tuple[int, ...], int] = {}
        self.graphs = [Graph(tuple(_fused(graph.nodes, slots))) for graph in graphs]
        self._least_ns = np.ones(duration_slots, np.int64)
        self._least_ns[[slot for graph in graphs for slot in _slots_in_memory(graph)]] = 0
        self._counts = np.array([np.bincount(chain, minlength=duration_slots) for chain in slots], np.int64)

    def durations_ns(self, durations_ns: Int64Array) -> Int64Array:
        """Durations by fused slot; the engine lets no node but those in memory take less than 1 ns."""
        fused: Int64Array = self._counts.dot(np.maximum(durations_ns, self._least_ns))
        return fused


def _slots_in_memory(graph: Graph) -> set[int]:
    """Durations of the channels of a memory that computes, which may be idle."""
    return {
        node.duration_slot
        for node in graph.nodes
        if node.pim_channel is not None and node.duration_slot is not None
    }


def _fused(nodes: Sequence[Node], slots: dict[tuple[int, ...], int]) -> Iterator[Node]:
    """Nodes with a chain's last one in its place; ``slots`` numbers chains by the durations they add up."""
    children = Counter(parent for node in nodes for parent in node.data_deps)
    chain: list[Node] = []
    for node in nodes:
        computes = node.kind is NodeKind.COMP and node.pim_channel is None
        grows = bool(chain) and computes
        if grows and node.data_deps == (chain[-1].node_id,) and children[chain[-1].node_id] == 1:
            chain.append(node)
            continue
        if chain:
            yield _one(chain, slots)
        chain = [node] if computes else []
        if not chain:
            yield node if node.pim_channel is None else _one([node], slots)
    if chain:
        yield _one(chain, slots)


def _one(chain: Sequence[Node], slots: dict[tuple[int, ...], int]) -> Node:
    durations = tuple(sorted(node.duration_slot for node in chain if node.duration_slot is not None))
    slot = slots.setdefault(durations, len(slots))
    return replace(chain[-1], data_deps=chain[0].data_deps, duration_slot=slot)

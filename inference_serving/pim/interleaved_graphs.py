"""Two graphs of one NPU as one, in which their phases take turns on its units.

A phase is what a half runs between two attentions in memory: while one half's attention runs there, the NPU has the
other half's phase. The order is fixed (first half, second half, first half, ...), the same on every NPU, so that
collectives of the two can never wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise

from astra_sim import Graph, Node, NodeKind

_MEMORY = (NodeKind.MEM_LOAD, NodeKind.MEM_STORE)


def take_turns(first: Graph, first_marks: Sequence[int], second: Graph, second_marks: Sequence[int]) -> Graph:
    """Join two graphs whose nodes are in the order of their ids, from 0; ``marks`` are where phases end.

    Each phase waits for the one before it in the common order, besides what its nodes wait for anyway.
    """
    shift = len(first.nodes)
    moved = Graph(tuple(_moved(node, shift) for node in second.nodes))
    phases = chain.from_iterable(zip(_phases(first, first_marks), _phases(moved, second_marks), strict=True))
    nodes = [*first.nodes, *moved.nodes]
    before: tuple[int, ...] = ()
    for phase in phases:
        holders = [node.node_id for node in phase if holds_a_unit(node)]
        start = nodes[holders[0]]
        nodes[holders[0]] = replace(start, data_deps=(*start.data_deps, *before))
        before = (holders[-1],)
    return Graph(tuple(nodes))


def holds_a_unit(node: Node) -> bool:
    """Whether the NPU computes or communicates for a node, not its copy engines or a memory."""
    if node.kind in _MEMORY or node.kind is NodeKind.SEND:
        return not node.copy_engine
    return node.pim_channel is None


def _phases(graph: Graph, marks: Sequence[int]) -> list[tuple[Node, ...]]:
    bounds = [0, *marks, len(graph.nodes)]
    return [graph.nodes[start:stop] for start, stop in pairwise(bounds)]


def _moved(node: Node, shift: int) -> Node:
    parents = tuple(parent + shift for parent in node.data_deps)
    return replace(node, node_id=node.node_id + shift, data_deps=parents)

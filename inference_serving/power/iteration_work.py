"""What an iteration computes and moves, as weights of its slots: asked once per structure, then two products.

Everything is read off the graphs, so that whatever a graph can say (layers, memories, collectives, messages)
is counted, whichever feature put it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astra_sim import CollectiveKind, Graph, Node, NodeKind
from inference_serving.graph_generator import build_graphs
from inference_serving.trace import Trace
from inference_serving.trace_shape import TraceShape

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IterationWork:
    """The graphs of one iteration, those of the instance's own NPUs first."""

    shape: TraceShape
    graphs: tuple[Graph, ...]
    duration_slots: int

    @staticmethod
    def of(trace: Trace) -> IterationWork:
        """Build the graphs of a trace's structure."""
        return IterationWork(trace.shape, tuple(build_graphs(trace.shape)), len(trace.durations_ns))

    def compute_runs(self) -> FloatArray:
        """How often all NPUs together spend each duration slot, shape ``[duration slots]``."""
        return self._runs(in_memory=False)

    def pim_runs(self) -> FloatArray:
        """How often the leading channels that compute in memory spend each duration slot, all together."""
        return self._runs(in_memory=True)

    def _runs(self, *, in_memory: bool) -> FloatArray:
        runs = np.zeros(self.duration_slots)
        for node in self._nodes():
            computes = node.kind is NodeKind.COMP and (node.pim_channel is not None) == in_memory
            if computes and node.duration_slot is not None:
                runs[node.duration_slot] += 1
        return runs

    def memory_accesses(self, memory: int) -> FloatArray:
        """How often each size slot is read from or written to one of the engine's memories."""
        accesses = np.zeros(self.shape.size_slots)
        for node in self._nodes():
            if node.kind in (NodeKind.MEM_LOAD, NodeKind.MEM_STORE) and node.memory == memory:
                accesses[_slot(node)] += 1
        return accesses

    def bytes_sent(self) -> FloatArray:
        """Bytes that all NPUs together send per byte of each size slot: messages and collectives."""
        sent = np.zeros(self.shape.size_slots)
        for node in self._nodes():
            if node.kind is NodeKind.SEND:
                sent[_slot(node)] += 1
            elif node.kind is NodeKind.COLL and node.collective is not None:
                sent[_slot(node)] += bytes_sent_per_byte(node.collective, len(node.group))
        return sent

    def _nodes(self) -> Iterator[Node]:
        return (node for graph in self.graphs for node in graph.nodes)


def bytes_sent_per_byte(kind: CollectiveKind, members: int) -> float:
    """Bytes that one of ``members`` NPUs sends, per byte of the collective's size.

    In a ring, all-reduce 2(n-1)/n, reduce-scatter (n-1)/n and all-gather (whose size is one shard) n-1 (Thakur,
    Rabenseifner and Gropp, 2005); all-to-all (n-1)/n, straight to where it goes. A broadcast reaches n-1
    members, so each sends (n-1)/n on average.
    """
    if kind is CollectiveKind.ALL_GATHER:
        return members - 1
    share = (members - 1) / members
    return 2 * share if kind is CollectiveKind.ALL_REDUCE else share


def _slot(node: Node) -> int:
    assert node.size_slot is not None
    return node.size_slot

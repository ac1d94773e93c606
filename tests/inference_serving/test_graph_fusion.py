"""Chains of compute nodes become one node; what others wait for stays, and every time is kept."""

from __future__ import annotations

import numpy as np

from astra_sim import CollectiveKind, Graph, Node, NodeKind
from inference_serving.graph_fusion import FusedGraphs


def comp(node_id: int, *parents: int, slot: int = 0) -> Node:
    return Node(node_id, NodeKind.COMP, data_deps=parents, duration_slot=slot)


def test_a_chain_is_one_node_that_takes_the_sum_and_a_layer_of_0_ns_its_1_ns():
    fused = FusedGraphs([Graph((comp(0, slot=0), comp(1, 0, slot=1), comp(2, 1, slot=1)))], 2)
    assert [node.node_id for node in fused.graphs[0].nodes] == [2]
    assert fused.durations_ns(np.array([0, 20])).tolist() == [41]


def test_a_chain_ends_where_something_else_waits_for_it():
    send = Node(2, NodeKind.SEND, data_deps=(1,), size_slot=0, peer=1)
    reduce = Node(4, NodeKind.COLL, data_deps=(3,), size_slot=0, collective=CollectiveKind.ALL_REDUCE)
    fused = FusedGraphs([Graph((comp(0), comp(1, 0), send, comp(3, 1), reduce, comp(5, 4)))], 1)
    kept = [(node.node_id, node.data_deps) for node in fused.graphs[0].nodes]
    assert kept == [(1, ()), (2, (1,)), (3, (1,)), (4, (3,)), (5, (4,))]
    assert fused.durations_ns(np.array([7])).tolist() == [14, 7]

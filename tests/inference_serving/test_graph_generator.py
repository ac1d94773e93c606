"""Graphs of one iteration: a chain on the instance's NPUs, KV beside it, receives at the decode side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from clusters import BLOCK, instance, make_cluster
from hypothesis import given
from hypothesis import strategies as st

from astra_sim import CollectiveKind, Graph, Node, NodeKind
from inference_serving.graph_generator import build_graphs
from inference_serving.shape_builder import build_shape
from inference_serving.trace_shape import TraceShape

LAYERS = ("embedding", *BLOCK, "final_layernorm", "lm_head")
ROWS, ROPE_ROWS = 27, (5, 17)  # of the two-block test model
TOKEN_IDS, SAMPLED_IDS, ALL_REDUCE, FIRST_KV = 0, 1, 2, 3  # size slots

tp_sizes = st.sampled_from([1, 2, 4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("clusters")


def shape_of(folder: Path, npus: int, *targets: int) -> TraceShape:
    """An instance of ``npus`` ranks that sends KV to decode instances of ``targets`` ranks."""
    kinds = [(npus, "prefill" if targets else None), *((count, "decode") for count in targets)]
    first, *others = make_cluster(folder, [instance(folder, *kind) for kind in kinds]).instances
    return build_shape(first, tuple(others))


def of_kind(graph: Graph, *kinds: NodeKind) -> list[Node]:
    return [node for node in graph.nodes if node.kind in kinds]


def without_sends(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.kind != NodeKind.SEND]


def test_one_npu_runs_load_layers_and_store_one_after_another(folder):
    (graph,) = build_graphs(shape_of(folder, 1))
    kinds = [NodeKind.MEM_LOAD, *[NodeKind.COMP] * ROWS, NodeKind.MEM_STORE]
    assert [node.kind for node in graph.nodes] == kinds
    assert [node.data_deps for node in graph.nodes] == [(), *((before,) for before in range(ROWS + 1))]


@pytest.mark.parametrize("npus", [1, 2, 4])
def test_every_rank_computes_every_row(folder, npus):
    shape = shape_of(folder, npus)
    names = [row.name for row in shape.rows]
    assert [[n.name for n in of_kind(graph, NodeKind.COMP)] for graph in build_graphs(shape)] == [
        names
    ] * npus


def test_a_layer_takes_the_time_of_its_kind(folder):
    (graph,) = build_graphs(shape_of(folder, 1))
    for node in of_kind(graph, NodeKind.COMP):
        assert node.duration_slot == LAYERS.index(node.name.rsplit("_", 1)[0])


def test_token_ids_are_loaded_and_sampled_ids_stored(folder):
    (graph,) = build_graphs(shape_of(folder, 1))
    (load,), (store,) = of_kind(graph, NodeKind.MEM_LOAD), of_kind(graph, NodeKind.MEM_STORE)
    assert (load.size_slot, store.size_slot) == (TOKEN_IDS, SAMPLED_IDS)


@pytest.mark.parametrize("npus", [2, 4])
def test_an_all_reduce_stands_between_a_split_layer_and_the_next(folder, npus):
    for graph in build_graphs(shape_of(folder, npus)):
        names = [node.name for node in graph.nodes]
        reduces = [node.node_id for node in of_kind(graph, NodeKind.COLL)]
        before = ["o_proj_7", "down_proj_12", "o_proj_19", "down_proj_24"]
        after = ["post_layernorm_8", "input_layernorm_13", "post_layernorm_20", "final_layernorm_25"]
        assert [names[node - 1] for node in reduces] == before
        assert [names[node + 1] for node in reduces] == after


@pytest.mark.parametrize("npus", [2, 4])
def test_the_chain_waits_for_an_all_reduce(folder, npus):
    for graph in build_graphs(shape_of(folder, npus)):
        deps = [node.data_deps for node in graph.nodes]
        assert deps == [(), *((before,) for before in range(len(deps) - 1))]


@pytest.mark.parametrize("npus", [2, 4])
def test_an_all_reduce_is_one_of_all_ranks_and_all_tokens(folder, npus):
    reduces = [
        node for graph in build_graphs(shape_of(folder, npus)) for node in of_kind(graph, NodeKind.COLL)
    ]
    assert {(node.collective, node.group, node.size_slot) for node in reduces} == {
        (CollectiveKind.ALL_REDUCE, tuple(range(npus)), ALL_REDUCE)
    }


def test_an_all_reduce_leaves_the_decode_ranks_out(folder):
    prefill_rank, *_ = build_graphs(shape_of(folder, 2, 4))
    assert {node.group for node in of_kind(prefill_rank, NodeKind.COLL)} == {(0, 1)}


def test_one_npu_has_no_collective(folder):
    (graph,) = build_graphs(shape_of(folder, 1))
    assert not of_kind(graph, NodeKind.COLL)


@given(tp_sizes, st.lists(tp_sizes, min_size=1, max_size=3))
def test_sends_leave_the_chain_as_it_is_without_them(folder, npus, targets):
    plain, sending = shape_of(folder, npus), shape_of(folder, npus, *targets)
    for alone, graph in zip(build_graphs(plain), build_graphs(sending)[:npus], strict=True):
        chain = without_sends(graph)
        position = {node.node_id: place for place, node in enumerate(chain)}
        assert [(node.kind, node.name, tuple(position[dep] for dep in node.data_deps)) for node in chain] == [
            (node.kind, node.name, node.data_deps) for node in alone.nodes
        ]


def test_kv_leaves_as_soon_as_the_rope_of_its_block_has_finished(folder):
    sender, _ = build_graphs(shape_of(folder, 1, 1))
    names = {node.node_id: node.name for node in sender.nodes}
    sends = of_kind(sender, NodeKind.SEND)
    assert [[names[dep] for dep in node.data_deps] for node in sends] == [["rope_5"], ["rope_17"]]


def test_a_send_goes_by_the_copy_engine_and_counts_for_the_transfer(folder):
    sender, _ = build_graphs(shape_of(folder, 1, 1))
    assert {(n.copy_engine, n.part, n.size_slot, n.peer) for n in of_kind(sender, NodeKind.SEND)} == {
        (True, 1, FIRST_KV, 1)
    }


def test_the_row_is_the_tag_so_that_blocks_do_not_meet(folder):
    sender, receiver = build_graphs(shape_of(folder, 1, 1))
    assert [node.tag for node in of_kind(sender, NodeKind.SEND)] == list(ROPE_ROWS)
    assert [node.tag for node in receiver.nodes] == list(ROPE_ROWS)


def test_each_rank_sends_its_own_heads_to_the_ranks_that_hold_them(folder):
    first, second, *_ = build_graphs(shape_of(folder, 2, 4))
    block = [node for node in first.nodes + second.nodes if node.tag == ROPE_ROWS[0]]
    assert [(node.peer, node.size_slot) for node in block] == [(2, 3), (3, 4), (4, 5), (5, 6)]


def test_targets_are_parts_of_their_own(folder):
    sender, *receivers = build_graphs(shape_of(folder, 1, 1, 2))
    block = [node for node in sender.nodes if node.tag == ROPE_ROWS[0]]
    assert [(node.part, node.peer) for node in block] == [(1, 1), (2, 2), (2, 3)]
    assert [{node.part for node in graph.nodes} for graph in receivers] == [{1}, {2}, {2}]


def test_everything_but_sends_and_receives_is_the_iteration(folder):
    for graph in build_graphs(shape_of(folder, 2, 1))[:2]:
        assert {node.part for node in without_sends(graph)} == {0}


@given(tp_sizes, st.lists(tp_sizes, min_size=1, max_size=3))
def test_every_send_has_its_receive_and_every_receive_its_send(folder, npus, targets):
    graphs = build_graphs(shape_of(folder, npus, *targets))
    sent: Counter[tuple[int | None, ...]] = Counter()
    received: Counter[tuple[int | None, ...]] = Counter()
    for place, graph in enumerate(graphs):
        sent.update((place, n.peer, n.tag, n.size_slot, n.part) for n in of_kind(graph, NodeKind.SEND))
        received.update((n.peer, place, n.tag, n.size_slot, n.part) for n in of_kind(graph, NodeKind.RECV))
    assert sent == received
    assert set(sent.values()) == {1}


@given(tp_sizes, tp_sizes)
def test_the_decode_side_only_posts_receives_and_all_at_once(folder, npus, target):
    receivers = build_graphs(shape_of(folder, npus, target))[npus:]
    assert len(receivers) == target
    for graph in receivers:
        assert {node.kind for node in graph.nodes} == {NodeKind.RECV}
        assert {node.data_deps for node in graph.nodes} == {()}


@given(tp_sizes, st.lists(tp_sizes, max_size=2))
def test_node_ids_are_the_positions_in_the_graph(folder, npus, targets):
    for graph in build_graphs(shape_of(folder, npus, *targets)):
        assert [node.node_id for node in graph.nodes] == list(range(len(graph.nodes)))

"""The double binary tree against its closed form on the congestion-unaware network.

A root with a single child, under which hangs a perfect binary tree of n-1 = 2^L - 1 nodes, numbered in-order.
Tree A has its root last, tree B first; streams of an NPU take them in turn. Every message is the whole D.
Going up, a leaf pays a step, each of the L-1 inner levels and the root msg + step + red; going down, each
inner level msg + step + red (it reduces there too), a leaf msg + step. Everywhere one hop:

    leaf:   (2L+1) step + 2L msg + (2L-1) red
    root:   (L+1) step + L msg + L red
"""

from __future__ import annotations

import math

import pytest
from astra_sim_builders import (
    MIB,
    STEP,
    Dim,
    all_reduce,
    among,
    collective,
    engine,
    finishes,
    mesh,
    message_ns,
    only,
    reduction_ns,
    run,
)

from astra_sim import CollectiveKind

TREE = ("doubleBinaryTree",)
RED = reduction_ns(MIB)
HOP = message_ns(MIB)


def leaf_ns(n: int) -> int:
    levels = int(math.log2(n))
    return (2 * levels + 1) * STEP + 2 * levels * HOP + (2 * levels - 1) * RED


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_an_all_reduce_goes_up_and_down_the_tree(n):
    assert run(engine(n, "FullyConnected", all_reduce=TREE), [[all_reduce(0)]] * n, sizes=[MIB]) == leaf_ns(n)


def test_root_inner_nodes_and_leaves_end_in_this_order():
    """n = 4, tree A: root 3, its child 1, leaves 0 and 2."""
    target = engine(4, "FullyConnected", all_reduce=TREE)
    run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
    root = 3 * STEP + 2 * HOP + 2 * RED
    inner = root + HOP + STEP + RED
    leaf = inner + HOP + STEP
    assert finishes(target) == [leaf, inner, leaf, root]


def test_the_next_stream_takes_the_other_tree():
    """Tree B of 4: root 0, its child 2, leaves 1 and 3."""
    target = engine(4, "FullyConnected", all_reduce=TREE)
    begin = run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
    run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
    root = 3 * STEP + 2 * HOP + 2 * RED
    inner = root + HOP + STEP + RED
    leaf = inner + HOP + STEP
    assert [end - begin for end in finishes(target)] == [root, leaf, inner, leaf]


def test_the_third_stream_takes_the_first_tree_again():
    target = engine(4, "FullyConnected", all_reduce=TREE)
    ends = []
    for _ in range(3):
        begin = target.now_ns
        run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
        ends.append([end - begin for end in finishes(target)])
    assert ends[2] == ends[0] != ends[1]


def test_two_chunks_side_by_side_use_both_trees():
    """Every NPU is a leaf of one of them, and ends as one."""
    chunks = {"preferred_dataset_splits": 2, "active_chunks_per_dimension": 2}
    target = engine(4, "FullyConnected", all_reduce=TREE, **chunks)
    run(target, [[all_reduce(0)]] * 4, sizes=[2 * MIB])
    assert finishes(target) == [leaf_ns(4)] * 4


def test_edges_of_the_tree_are_those_of_the_in_order_numbering():
    """n = 8, tree A: root 7 over 3, 3 over 1 and 5, 1 over 0 and 2, 5 over 4 and 6."""
    target = engine(8, "FullyConnected", all_reduce=TREE)
    target.record()
    run(target, [[all_reduce(0)]] * 8, sizes=[MIB])
    up = {(0, 1), (2, 1), (4, 5), (6, 5), (1, 3), (5, 3), (3, 7)}
    sent = [(span.source, span.destination) for span in target.link_spans()]
    assert sorted(sent) == sorted(up | {(parent, child) for child, parent in up})


def test_on_a_ring_the_root_is_far_from_its_child():
    """n = 8: leaves are 1 hop from their parents, these 2 from node 3, and node 3 is 4 from the root."""
    ways = [1, 2, 4, 4, 2, 1]
    expected = 7 * STEP + sum(message_ns(MIB, hops) for hops in ways) + 5 * RED
    assert run(engine(8, "Ring", all_reduce=TREE), [[all_reduce(0)]] * 8, sizes=[MIB]) == expected


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (CollectiveKind.ALL_GATHER, {"all_gather": TREE}),
        (CollectiveKind.REDUCE_SCATTER, {"reduce_scatter": TREE}),
        (CollectiveKind.ALL_TO_ALL, {"all_to_all": TREE}),
    ],
)
def test_any_collective_is_run_as_an_all_reduce(kind, names):
    assert run(engine(4, "FullyConnected", **names), [[collective(0, kind)]] * 4, sizes=[MIB]) == leaf_ns(4)


def test_the_data_neither_shrinks_nor_grows_on_the_way_through_two_dimensions():
    """localBWAware: reduce-scatter, all-reduce and all-gather phases all move D."""
    dims = Dim("FullyConnected", 2), Dim("FullyConnected", 2)
    target = mesh(*dims, all_reduce=TREE * 2, collective_optimization="localBWAware")
    target.record()
    run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
    assert {span.bytes for span in target.link_spans()} == {MIB}


def test_a_group_collective_leaves_the_turn_of_the_systems_trees_alone():
    """Members and others agree on the tree of the next collective of the whole system: 2 * (3 step + 2 msg + red)."""
    members = (0, 2)
    grouped = [all_reduce(0, group=members), all_reduce(1, 0)]
    graphs = only(4, {npu: grouped if npu in members else [all_reduce(1)] for npu in range(4)})
    group = 10 + 2 * (message_ns(MIB // 2) + 10) + reduction_ns(MIB // 2)
    target = mesh(Dim("FullyConnected", 2), Dim("FullyConnected", 2), all_reduce=TREE * 2)
    assert run(target, graphs, sizes=[MIB]) == group + 2 * leaf_ns(2)


@pytest.mark.parametrize("n", [3, 6])
def test_other_counts_than_powers_of_two_are_refused(n):
    message = f"doubleBinaryTree needs a power of two of NPUs, not {n}; use ring or direct"
    with pytest.raises(ValueError, match=message):
        run(engine(n, all_reduce=TREE), [[all_reduce(0)]] * n, sizes=[MIB])


def test_a_group_is_refused():
    with pytest.raises(ValueError, match="doubleBinaryTree cannot run in a communicator group"):
        run(engine(4, all_reduce=TREE), among(4, (0, 1), all_reduce(0, group=(0, 1))), sizes=[MIB])


def test_an_all_gather_by_the_tree_needs_the_memory_bandwidth_for_its_reductions():
    target = engine(4, all_gather=TREE, local_mem_bw_gbps=None)
    with pytest.raises(ValueError, match="a reduction needs local-mem-bw in the system configuration"):
        run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 4, sizes=[MIB])

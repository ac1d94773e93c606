"""What the doctor says of simulations that stand still: the text, exactly, and the wait-for chain."""

from __future__ import annotations

import time

import pytest
from astra_sim_builders import (
    Dim,
    all_reduce,
    collective,
    comp,
    drain,
    load,
    mesh,
    numbers,
    recv,
    send,
)

from astra_sim import CollectiveKind, Engine, Graph, MemoryConfig, NetworkConfig, Node, NodeKind, SystemConfig
from astra_sim.stall_doctor import BlockedNode, diagnosis

SIZES = (1000, 999)


def stalled(*graphs, rendezvous: bool = False, **system) -> Engine:
    """An engine that has run these graphs as far as they go: durations of 1 ns, sizes of 1000 and 999 bytes."""
    target = mesh(Dim("FullyConnected", len(graphs)), rendezvous=rendezvous, **system)
    template = target.compile([Graph(tuple(nodes)) for nodes in graphs])
    target.submit(template, range(len(graphs)), numbers(1), numbers(*SIZES), 0)
    drain(target)
    return target


def said(*graphs, **options) -> list[str]:
    return diagnosis(stalled(*graphs, **options).stall_report())


def headline(nodes: str, npus: str) -> str:
    return f"{nodes} on {npus} can never finish; nothing is left to happen"


def test_a_simulation_that_ended_needs_no_doctor():
    assert said([comp(0)], [comp(0)]) == []


# Messages


def test_a_receive_without_a_send():
    assert said([comp(0)], [recv(4, 0, tag=3)]) == [
        headline("1 node", "1 NPU"),
        "  NPU 1, node 4 (recv4) waits for 1000 bytes with tag 3 from NPU 0, which has no such send left",
    ]


def test_a_node_without_a_name_is_its_number():
    nameless = Node(4, NodeKind.RECV, size_slot=0, peer=0)
    assert said([], [nameless])[1:] == [
        "  NPU 1, node 4 waits for 1000 bytes with tag 0 from NPU 0, which has no such send left"
    ]


def test_a_send_that_has_met_another_receive_is_no_send_left():
    assert said([send(7, 1)], [recv(0, 0), recv(1, 0)])[1:] == [
        "  NPU 1, node 1 (recv1) waits for 1000 bytes with tag 0 from NPU 0, which has no such send left"
    ]


def test_a_send_of_another_size_is_named():
    assert said([send(7, 1, slot=1)], [recv(4, 0)])[1:] == [
        "  NPU 1, node 4 (recv4) waits for 1000 bytes with tag 0 from NPU 0; its node 7 (send7) sends 999 bytes "
        "instead"
    ]


@pytest.mark.parametrize("other", [send(7, 2), send(7, 1, tag=5)])
def test_a_send_to_somebody_else_or_of_another_tag_is_no_such_send(other):
    assert said([other], [recv(4, 0)], [])[1:] == [
        "  NPU 1, node 4 (recv4) waits for 1000 bytes with tag 0 from NPU 0, which has no such send left"
    ]


def test_a_dependency_across_three_npus_is_followed_to_its_end():
    """NPU 2 waits for NPU 1's send, which waits for a message of NPU 0, whose send waits for one of NPU 2."""
    zero = [recv(0, 2, tag=9), send(1, 1, 0, tag=1)]
    one = [recv(0, 0, tag=1), send(1, 2, 0, tag=2)]
    two = [recv(0, 1, tag=2)]
    assert said(zero, one, two) == [
        headline("5 nodes", "3 NPUs"),
        "  NPU 2, node 0 (recv0) waits for 1000 bytes with tag 2 from NPU 1, its node 1 (send1)",
        "  -> NPU 1, node 1 (send1) waits for node 0 (recv0)",
        "  -> NPU 1, node 0 (recv0) waits for 1000 bytes with tag 1 from NPU 0, its node 1 (send1)",
        "  -> NPU 0, node 1 (send1) waits for node 0 (recv0)",
        "  -> NPU 0, node 0 (recv0) waits for 1000 bytes with tag 9 from NPU 2, which has no such send left",
    ]


def test_a_circle_of_two_npus_is_named():
    assert said([recv(0, 1), send(1, 1, 0)], [recv(0, 0), send(1, 0, 0)]) == [
        headline("4 nodes", "2 NPUs"),
        "  NPU 0, node 0 (recv0) waits for 1000 bytes with tag 0 from NPU 1, its node 1 (send1)",
        "  -> NPU 1, node 1 (send1) waits for node 0 (recv0)",
        "  -> NPU 1, node 0 (recv0) waits for 1000 bytes with tag 0 from NPU 0, its node 1 (send1)",
        "  -> NPU 0, node 1 (send1) waits for node 0 (recv0)",
        "  a circle: this is NPU 0, node 0 again",
    ]


def test_a_circle_is_shown_rather_than_a_chain():
    lines = said(
        [recv(0, 1), send(1, 1, 0), recv(9, 1, tag=7)], [recv(0, 0), send(1, 0, 0), recv(5, 0, tag=8)]
    )
    assert lines[0] == headline("6 nodes", "2 NPUs")
    assert lines[-1] == "  a circle: this is NPU 0, node 0 again"


def test_a_send_without_a_receive_under_rendezvous():
    assert said([send(0, 1)], [comp(0)], rendezvous=True)[1:] == [
        "  NPU 0, node 0 (send0) waits for NPU 1 to post a matching receive (rendezvous)"
    ]


def test_a_receive_without_a_send_under_rendezvous():
    assert said([comp(0)], [recv(4, 0, tag=3)], rendezvous=True)[1:] == [
        "  NPU 1, node 4 (recv4) waits for 1000 bytes with tag 3 from NPU 0, which has no such send left"
    ]


# Dependencies and units


def test_a_node_waits_for_all_its_parents_and_the_chain_follows_the_first():
    nodes = [recv(0, 1, tag=1), recv(1, 1, tag=2), Node(2, NodeKind.COMP, "end", (0,), (1,), duration_slot=0)]
    report = stalled(nodes, []).stall_report()
    assert report[2] == BlockedNode(0, 2, "end", "waits for node 0 (recv0), 1 (recv1)", 0)


def test_of_many_parents_eight_are_named():
    nodes = [recv(i, 1, tag=i) for i in range(10)]
    report = stalled([*nodes, comp(10, *range(10))], []).stall_report()
    names = ", ".join(f"{i} (recv{i})" for i in range(8))
    assert report[10].cause == f"waits for node {names} and 2 more"


def test_a_finished_parent_is_not_waited_for():
    report = stalled([comp(0), recv(1, 1), comp(2, 0, 1)], []).stall_report()
    assert report[1] == BlockedNode(0, 2, "comp2", "waits for node 1 (recv1)", 0)


def test_a_long_chain_is_cut_in_its_middle():
    """20 nodes: the first and the last six are shown."""
    lines = said([recv(0, 1)] + [comp(i, i - 1) for i in range(1, 20)], [])
    assert len(lines) == 1 + 6 + 1 + 6
    assert lines[1] == "  NPU 0, node 19 (comp19) waits for node 18 (comp18)"
    assert lines[7] == "  -> ... 8 more ..."
    assert lines[8] == "  -> NPU 0, node 5 (comp5) waits for node 4 (comp4)"


def test_a_taken_unit_is_named_with_the_node_that_has_it():
    assert said([send(0, 1), send(1, 2)], [comp(0)], [recv(0, 0)], rendezvous=True) == [
        headline("3 nodes", "2 NPUs"),
        "  NPU 2, node 0 (recv0) waits for 1000 bytes with tag 0 from NPU 0, its node 1 (send1)",
        "  -> NPU 0, node 1 (send1) waits for its unit, which is taken by node 0 (send0)",
        "  -> NPU 0, node 0 (send0) waits for NPU 1 to post a matching receive (rendezvous)",
    ]


def test_a_load_waits_for_the_unit_of_a_collective():
    network = NetworkConfig.flat("FullyConnected", 2, 50, 500)
    memory = MemoryConfig(memory_type="PER_NPU_MEMORY_EXPANSION")
    target = Engine(network, SystemConfig(local_mem_bw_gbps=1600), [memory])
    template = target.compile([Graph((all_reduce(0), load(1))), Graph((comp(0),))])
    target.submit(template, [0, 1], numbers(1), numbers(1000), 0)
    drain(target)
    assert target.stall_report() == [
        BlockedNode(0, 0, "ALL_REDUCE", "waits for NPU 1, which has no collective left to join it", None),
        BlockedNode(0, 1, "load1", "waits for its unit, which is taken by node 0 (ALL_REDUCE)", 0),
    ]


NEVER_ISSUED = (
    "is free but never issued: the node before it was skipped (INVALID, or roofline without tensor_size), and "
    "nothing else of this NPU finishes afterwards"
)


def test_nothing_follows_a_skipped_node():
    skipped = Node(0, NodeKind.INVALID)
    assert said([skipped, comp(1, 0)])[1:] == [f"  NPU 0, node 1 (comp1) {NEVER_ISSUED}"]


def test_nothing_follows_a_roofline_node_without_tensor_size():
    target = mesh(Dim("Switch", 1), roofline_enabled=True, peak_perf_tflops=100)
    nodes = [Node(i, NodeKind.COMP, "", tuple(range(i)), size_slot=i, ops_slot=1) for i in range(2)]
    target.submit(target.compile([Graph(tuple(nodes))]), [0], numbers(), numbers(0, 10), 0)
    drain(target)
    assert [str(node) for node in target.stall_report()] == [f"NPU 0, node 1 {NEVER_ISSUED}"]


def test_something_else_that_finishes_saves_the_children_of_a_skipped_node():
    assert said([Node(0, NodeKind.INVALID), comp(1, 0), comp(2)]) == []


# Collectives


def test_a_missing_partner():
    assert said([all_reduce(0)], [comp(0)])[1:] == [
        "  NPU 0, node 0 (ALL_REDUCE) waits for NPU 1, which has no collective left to join it"
    ]


def test_collectives_of_different_kinds():
    gather = collective(5, CollectiveKind.ALL_GATHER)
    assert said([all_reduce(0)], [gather]) == [
        headline("2 nodes", "2 NPUs"),
        "  NPU 0, node 0 (ALL_REDUCE) waits for NPU 1, its node 5 (ALL_GATHER), which is another kind of collective",
        "  -> NPU 1, node 5 (ALL_GATHER) waits for NPU 0, its node 0 (ALL_REDUCE), which is another kind of "
        "collective",
        "  a circle: this is NPU 0, node 0 again",
    ]


def test_collectives_of_different_sizes():
    assert said([all_reduce(0)], [all_reduce(5, slot=1)])[1:3] == [
        "  NPU 0, node 0 (ALL_REDUCE) waits for NPU 1, its node 5 (ALL_REDUCE), which is of 999 bytes, not 1000 bytes",
        "  -> NPU 1, node 5 (ALL_REDUCE) waits for NPU 0, its node 0 (ALL_REDUCE), which is of 1000 bytes, not 999 "
        "bytes",
    ]


def test_a_partner_that_comes_too_late_is_followed():
    assert said([all_reduce(0)], [recv(0, 0), all_reduce(1, 0)])[1:] == [
        "  NPU 0, node 0 (ALL_REDUCE) waits for NPU 1, its node 1 (ALL_REDUCE)",
        "  -> NPU 1, node 1 (ALL_REDUCE) waits for node 0 (recv0)",
        "  -> NPU 1, node 0 (recv0) waits for 1000 bytes with tag 0 from NPU 0, which has no such send left",
    ]


def test_a_collective_of_another_group_is_none_to_join():
    pair = all_reduce(0, group=(0, 1))
    other = all_reduce(0, group=(1, 2))
    assert said([pair], [other], [comp(0)])[1:] == [
        "  NPU 0, node 0 (ALL_REDUCE) waits for NPU 1, which has no collective left to join it"
    ]


# Size

MANY = 20_000


def chain():
    return [[recv(0, 1)] + [comp(i, i - 1) for i in range(1, MANY)], []]


def blocked_sends():
    receives = [recv(i, 1, tag=i) for i in range(MANY // 2)]
    return [receives, [recv(MANY, 0)] + [send(i, 0, MANY, tag=i) for i in range(MANY // 2)]]


def sends_of_another_size():
    return [
        [recv(i, 1, tag=i) for i in range(MANY // 2)],
        [send(i, 0, tag=i, slot=1) for i in range(MANY // 2)],
    ]


def one_parent_of_all():
    return [[recv(MANY, 1)] + [comp(i, MANY) for i in range(MANY - 1)], []]


def all_parents_of_one():
    return [[recv(i, 1, tag=i) for i in range(MANY - 1)] + [comp(MANY, *range(MANY - 1))], []]


@pytest.mark.parametrize(
    "graphs", [chain, blocked_sends, sends_of_another_size, one_parent_of_all, all_parents_of_one]
)
def test_twenty_thousand_nodes_are_diagnosed_within_a_second(graphs):
    target = stalled(*graphs())
    begin = time.process_time()
    lines = diagnosis(target.stall_report())
    assert time.process_time() - begin < 1
    assert 1 < len(lines) <= 14


def test_a_taken_unit_is_found_within_a_second_among_twenty_thousand_nodes():
    target = stalled([send(i, 1, tag=i) for i in range(MANY)], [], rendezvous=True)
    begin = time.process_time()
    assert len(diagnosis(target.stall_report())) == 3
    assert time.process_time() - begin < 1

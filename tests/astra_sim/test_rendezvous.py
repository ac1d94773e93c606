"""The rendezvous protocol: posting a receive sends 8192 bytes to the sender, and the data starts when they land.

With c = the time of 8192 bytes back and m = that of the message, a send issued at s meets a receive posted at r:
both end at max(s, r + c) + m.
"""

from __future__ import annotations

import pytest
from astra_sim_builders import (
    MIB,
    STEP,
    Dim,
    all_reduce,
    among,
    collective,
    comp,
    finishes,
    mesh,
    message_ns,
    numbers,
    only,
    recv,
    reduction_ns,
    run,
    send,
)

from astra_sim import CollectiveKind, Graph

SIZE = 1_000_000
CONTROL = 8192
M, C = message_ns(SIZE), message_ns(CONTROL)
PAIR = Dim("FullyConnected", 2)


def meeting(*dims: Dim, backend: str = "unaware", **more):
    return mesh(*dims, backend=backend, rendezvous=True, **more)


@pytest.mark.parametrize(
    ("send_at", "receive_at"),
    [(0, 0), (0, 5000), (0, 1), (5000, 0), (C - 1, 0), (C, 0), (C + 1, 0), (700, 600)],
)
def test_the_data_starts_when_both_are_ready(send_at, receive_at):
    sender = [comp(0, slot=0), send(1, 1, 0)] if send_at else [send(1, 1)]
    receiver = [comp(0, slot=1), recv(1, 0, 0)] if receive_at else [recv(1, 0)]
    target = meeting(PAIR)
    run(target, [sender, receiver], [send_at, receive_at], [SIZE])
    assert finishes(target) == [max(send_at, receive_at + C) + M] * 2


def test_without_rendezvous_the_data_starts_at_once():
    target = mesh(PAIR)
    run(target, [[send(1, 1)], [comp(0), recv(1, 0, 0)]], [5000], [SIZE])
    assert finishes(target) == [M, M]


@pytest.mark.parametrize(("wiring", "peer", "hops"), [("Ring", 3, 3), ("Ring", 7, 1), ("Switch", 5, 2)])
def test_the_control_message_goes_the_way_back(wiring, peer, hops):
    target = meeting(Dim(wiring, 8))
    graphs = only(8, {0: [send(0, peer)], peer: [recv(0, 0)]})
    assert run(target, graphs, sizes=[SIZE]) == message_ns(CONTROL, hops) + message_ns(SIZE, hops)


def test_sends_of_one_npu_wait_for_their_receives_one_after_another():
    """All receives are posted at 0, so only the first send waits for a control message."""
    nodes = range(3)
    target = meeting(PAIR)
    graphs = [[send(i, 1, tag=i) for i in nodes], [recv(i, 0, tag=i) for i in nodes]]
    assert run(target, graphs, sizes=[SIZE]) == C + 3 * M


def test_a_send_that_waits_keeps_the_communication_unit():
    """The second send, whose receive is there at once, starts when the first has landed at 5000 + c + m."""
    target = meeting(Dim("FullyConnected", 3))
    graphs = [[send(0, 1), send(1, 2)], [comp(0), recv(1, 0, 0)], [recv(0, 0)]]
    assert run(target, graphs, [5000], [SIZE]) == 5000 + C + M + M


def test_receives_of_one_tag_are_met_in_order():
    """The receives are posted at 0 and 30000: the second send's data starts at 30000 + c."""
    target = meeting(PAIR)
    receiver = [recv(0, 0), comp(1), recv(2, 0, 1)]
    assert run(target, [[send(0, 1), send(1, 1)], receiver], [30_000], [SIZE]) == 30_000 + C + M


def test_messages_both_ways_do_not_wait_for_each_other():
    target = meeting(PAIR)
    graphs = [[send(0, 1, tag=1), recv(1, 1, tag=2)], [send(0, 0, tag=2), recv(1, 0, tag=1)]]
    assert run(target, graphs, sizes=[SIZE]) == C + M


def test_a_send_without_a_receive_never_ends():
    target = meeting(PAIR)
    target.submit(target.compile([Graph((send(0, 1),)), Graph(())]), [0, 1], numbers(), numbers(SIZE), 0)
    assert target.advance() == []
    assert [str(node) for node in target.stall_report()] == [
        "NPU 0, node 0 (send0) waits for NPU 1 to post a matching receive (rendezvous)"
    ]


def test_control_messages_are_not_counted_as_sent_bytes():
    target = meeting(PAIR)
    run(target, [[send(0, 1)], [recv(0, 0)]], sizes=[SIZE])
    assert (target.p2p_bytes, target.collective_bytes) == (SIZE, 0)


def test_on_the_aware_network_control_messages_are_messages_too():
    """On a ring of 8 the 8192 bytes come 3 hops back, then the data goes 3 hops."""
    target = meeting(Dim("Ring", 8), backend="aware")
    assert run(target, only(8, {0: [send(0, 3)], 3: [recv(0, 0)]}), sizes=[SIZE]) == 3 * C + 3 * M


def test_on_the_aware_network_a_control_message_waits_for_the_link():
    """NPU 1's data for 0 takes its link at c; 10 ns later 1 posts a receive, whose 8192 bytes queue behind it."""
    busy = Dim("FullyConnected", 2).transfer_ns(SIZE)
    target = meeting(PAIR, backend="aware")
    graphs = [[recv(0, 1, tag=1), send(1, 1, tag=2)], [send(0, 0, tag=1), comp(1), recv(2, 0, 1, tag=2)]]
    assert run(target, graphs, [C + 10], [SIZE]) == C + busy + C + M


# Collectives


@pytest.mark.parametrize("n", [2, 4])
def test_every_step_of_a_ring_waits_for_a_control_message(n):
    """step + 2 (n-1) (c + msg + step) + (n-1) red"""
    message = MIB // n
    steps = 2 * (n - 1) * (C + message_ns(message) + STEP)
    target = meeting(Dim("FullyConnected", n))
    expected = STEP + steps + (n - 1) * reduction_ns(message)
    assert run(target, [[all_reduce(0)]] * n, sizes=[MIB]) == expected


def test_a_direct_exchange_waits_once():
    """2 step + c + msg"""
    target = meeting(Dim("FullyConnected", 5), all_gather=("direct",))
    nodes = [collective(0, CollectiveKind.ALL_GATHER)]
    assert run(target, [nodes] * 5, sizes=[MIB]) == 2 * STEP + C + message_ns(MIB)


def test_halving_doubling_waits_in_every_exchange():
    """4 messages of D/2, D/4, D/4, D/2 among 4 NPUs, one reduction."""
    target = meeting(Dim("FullyConnected", 4), all_reduce=("halvingDoubling",))
    messages = [MIB // 2, MIB // 4, MIB // 4, MIB // 2]
    expected = STEP + sum(C + message_ns(size) + STEP for size in messages) + reduction_ns(MIB // 4)
    assert run(target, [[all_reduce(0)]] * 4, sizes=[MIB]) == expected


def test_in_a_tree_only_the_leaf_makes_the_data_wait():
    """n = 2: the root has posted its receive before the leaf sends at step; the leaf posts its own at step.

    The leaf's control message is at the root at step + c < c + msg, long before the root sends. With c > step
    the data goes up at c.
    """
    target = meeting(PAIR, all_reduce=("doubleBinaryTree",))
    red = reduction_ns(MIB)
    assert STEP < C < message_ns(MIB)
    expected = C + message_ns(MIB) + STEP + red + message_ns(MIB) + STEP
    assert run(target, [[all_reduce(0)]] * 2, sizes=[MIB]) == expected


def test_a_group_waits_like_the_system():
    message, members = MIB // 2, (1, 3)
    target = meeting(Dim("FullyConnected", 4))
    expected = 10 + 2 * (C + message_ns(message) + 10) + reduction_ns(message)
    assert run(target, among(4, members, all_reduce(0, group=members)), sizes=[MIB]) == expected

"""Sends, receives and the copy engine."""

from __future__ import annotations

import pytest
from astra_sim_builders import all_reduce, comp, engine, message_ns, recv, run, send

SIZE = 1_000_000
FLIGHT = message_ns(SIZE, 2)


@pytest.mark.parametrize(
    ("wiring", "peer", "hops"),
    [("Ring", 1, 1), ("Ring", 3, 3), ("Ring", 6, 2), ("FullyConnected", 5, 1), ("Switch", 5, 2)],
)
def test_a_message_takes_hops_times_latency_plus_size_over_bandwidth(wiring, peer, hops):
    graphs = [[send(0, peer)] if npu == 0 else [recv(0, 0)] if npu == peer else [] for npu in range(8)]
    assert run(engine(8, wiring), graphs, sizes=[SIZE]) == message_ns(SIZE, hops)


def test_a_receive_posted_after_landing_finishes_at_once():
    target = engine(2)
    assert run(target, [[send(0, 1)], [comp(0), recv(1, 0, 0)]], [100_000], [SIZE]) == 100_000
    assert target.npu_stats(0).finish_ns == FLIGHT


def test_a_send_finishes_when_the_data_has_landed_even_if_nobody_receives():
    target = engine(2)
    assert run(target, [[send(0, 1)], []], sizes=[SIZE]) == FLIGHT
    assert target.tickets_active == 0


def test_sends_of_one_npu_go_one_after_another():
    graphs = [[send(0, 1), send(1, 2), send(2, 3)], [recv(0, 0)], [recv(0, 0)], [recv(0, 0)]]
    assert run(engine(4), graphs, sizes=[SIZE]) == 3 * FLIGHT


def test_the_unaware_network_knows_no_incast():
    graphs = [[recv(npu, npu) for npu in range(1, 8)]] + [[send(0, 0)] for _ in range(7)]
    assert run(engine(8), graphs, sizes=[SIZE]) == FLIGHT


def test_messages_of_different_tags_or_sizes_do_not_meet():
    graphs = [[send(0, 1, tag=1), send(1, 1, tag=2)], [recv(0, 0, tag=2), comp(1, 0), recv(2, 0, tag=1)]]
    assert run(engine(2), graphs, [1], [SIZE]) == 2 * FLIGHT + 1


def test_copy_engine_senders_contend_for_the_receivers_one_lane():
    graphs = [[recv(0, 1), recv(1, 2)], [send(0, 0, copy_engine=True)], [send(0, 0, copy_engine=True)]]
    assert run(engine(4), graphs, sizes=[SIZE]) == 2 * FLIGHT


def test_copy_engine_lanes_of_different_receivers_are_independent():
    graphs = [[recv(0, 2)], [recv(0, 3)], [send(0, 0, copy_engine=True)], [send(0, 1, copy_engine=True)]]
    assert run(engine(4), graphs, sizes=[SIZE]) == FLIGHT


def test_a_copy_leaves_compute_and_collectives_of_both_sides_undisturbed():
    alone = run(engine(2), [[all_reduce(0), comp(1)]] * 2, [5], [SIZE])
    sender = [all_reduce(0), comp(1), send(2, 1, slot=1, copy_engine=True)]
    receiver = [all_reduce(0), comp(1), recv(2, 0, slot=1)]
    target = engine(2)
    assert run(target, [sender, receiver], [5], [SIZE, 10]) == alone
    occupied = run(
        engine(2),
        [[send(0, 1, slot=1), all_reduce(1, slot=0)], [recv(0, 0, slot=1), all_reduce(1)]],
        [5],
        [SIZE, 10],
    )
    assert occupied > alone - 5


def test_point_to_point_bytes_are_counted():
    target = engine(2)
    run(target, [[send(0, 1), send(1, 1)], [recv(0, 0), recv(1, 0)]], sizes=[SIZE])
    assert target.p2p_bytes == 2 * SIZE

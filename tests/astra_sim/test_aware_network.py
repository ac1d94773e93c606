"""The congestion-aware network: whole messages, stored and forwarded, first come first served on every link.

With x = int(size / bandwidth) a link is busy for x, and A = int(latency + size / bandwidth) after it has taken
a message this is at the link's other end. A message crosses the dimensions in ascending order; every ring,
switch and full mesh has links of its own.
"""

from __future__ import annotations

import itertools

import pytest
from astra_sim_builders import (
    MIB,
    STEP,
    Dim,
    all_reduce,
    collective,
    comp,
    finishes,
    mesh,
    only,
    recv,
    reduction_ns,
    run,
    send,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim import CollectiveKind

SIZE = 1_000_000
RING = Dim("Ring", 8)
SWITCH = Dim("Switch", 8)
FULL = Dim("FullyConnected", 8)
A, X = RING.message_ns(SIZE), RING.transfer_ns(SIZE)


def aware(*dims: Dim, **more):
    return mesh(*dims, backend="aware", **more)


def send_all(target, pairs, delays=None) -> list[int]:
    """Send SIZE bytes from a to b for each pair (after a delay); when each of them landed."""
    delays = delays or [0] * len(pairs)
    graphs: dict[int, list] = {}
    for index, (source, destination) in enumerate(pairs):
        wait = [comp(2 * index, slot=index)] if delays[index] else []
        parents = [2 * index] if delays[index] else []
        graphs.setdefault(source, []).extend([*wait, send(2 * index + 1, destination, *parents, tag=index)])
        graphs.setdefault(destination, []).append(recv(1000 + index, source, tag=index))
    target.record()
    run(target, only(target.npu_count, graphs), delays, [SIZE])
    landed = {(s.npu, s.node_id): s.end_ns for s in target.node_spans()}
    return [landed[destination, 1000 + index] for index, (_, destination) in enumerate(pairs)]


def links(target) -> list[str]:
    return [span.link for span in target.link_spans()]


# One message


@pytest.mark.parametrize(("peer", "hops"), [(1, 1), (3, 3), (4, 4), (5, 3), (7, 1)])
def test_a_ring_stores_and_forwards_hop_by_hop(peer, hops):
    assert send_all(aware(RING), [(0, peer)]) == [hops * A]


def test_a_switch_is_paid_twice():
    assert send_all(aware(SWITCH), [(2, 5)]) == [2 * A]


def test_a_full_mesh_is_paid_once():
    assert send_all(aware(FULL), [(2, 5)]) == [A]


def test_the_delay_of_every_hop_is_cut_to_an_integer():
    """0.9 ns latency and 0.4 bytes per ns: 3 hops of int(0.9 + 2.5), not int(10.2)."""
    target = aware(Dim("Ring", 8, 0.4 * 1e9 / 2**30, 0.9))
    graphs = only(8, {0: [send(0, 3)], 3: [recv(0, 0)]})
    assert run(target, graphs, sizes=[1]) == 3 * 3


def test_a_ring_takes_the_shorter_way():
    target = aware(RING)
    send_all(target, [(0, 6)])
    assert links(target) == ["dim 0: NPU 0 -> NPU 7", "dim 0: NPU 7 -> NPU 6"]


def test_a_tie_on_a_ring_goes_ascending():
    target = aware(Dim("Ring", 4))
    send_all(target, [(3, 1)])
    assert links(target) == ["dim 0: NPU 3 -> NPU 0", "dim 0: NPU 0 -> NPU 1"]


def test_a_switch_has_an_up_link_and_a_down_link_per_npu():
    target = aware(SWITCH)
    send_all(target, [(2, 5)])
    assert links(target) == ["dim 0: NPU 2 -> switch", "dim 0: switch -> NPU 5"]


def test_a_ring_of_two_has_a_link_each_way():
    assert send_all(aware(Dim("Ring", 2)), [(0, 1), (1, 0)]) == [A, A]


# Contention


def test_messages_in_opposite_directions_do_not_meet():
    assert send_all(aware(RING), [(0, 2), (2, 0)]) == [2 * A, 2 * A]


def test_a_message_waits_for_the_one_on_its_link():
    """1 -> 2 takes the link 10 ns before the message 0 -> 2 arrives there."""
    assert send_all(aware(RING), [(0, 2), (1, 2)], [0, A - 10]) == [A - 10 + X + A, A - 10 + A]


def test_a_link_is_free_before_its_message_has_arrived():
    """The next message waits for bytes / bandwidth, not for the latency."""
    slow = Dim("Ring", 8, 50, 1_000_000)
    first, busy = slow.message_ns(SIZE), slow.transfer_ns(SIZE)
    landed = send_all(aware(slow), [(0, 2), (1, 2)], [0, first - 1])
    assert landed == [first - 1 + busy + first, first - 1 + first]


def test_of_two_at_the_same_time_the_one_that_was_scheduled_first_goes_first():
    """NPU 0's message arrives when NPU 1 begins to send; its arrival was scheduled before."""
    assert send_all(aware(RING), [(0, 2), (1, 2)], [0, A]) == [2 * A, A + X + A]


def test_when_a_message_lands_the_sender_goes_on_before_the_receiver():
    """0 -> 1 lands at 2A; then both send to 2 at once, and 0's message is the first on the down link."""
    target = aware(Dim("Switch", 3))
    graphs = [
        [send(0, 1), send(1, 2, 0)],
        [recv(0, 0), send(1, 2, 0)],
        [recv(0, 0), recv(1, 1)],
    ]
    run(target, graphs, sizes=[SIZE])
    assert finishes(target) == [4 * A, 4 * A + X, 4 * A + X]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_an_incast_at_a_switch_is_served_in_order(count):
    """Up links in parallel, then one after another down to NPU 0."""
    landed = send_all(aware(SWITCH), [(npu, 0) for npu in range(1, count + 1)])
    assert landed == [A + turn * X + A for turn in range(count)]


def test_an_incast_in_a_full_mesh_does_not_contend():
    assert send_all(aware(FULL), [(npu, 0) for npu in range(1, 8)]) == [A] * 7


def test_messages_on_one_link_keep_their_order():
    """An all-gather at a switch sends 7 messages up at once; each comes down to another NPU.

    The k-th goes up at k x and finds its down link free: 2 step + 6 x + 2 A.
    """
    target = aware(SWITCH, all_gather=("direct",))
    end = run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 8, sizes=[SIZE])
    assert end == 2 * STEP + 6 * X + 2 * A


@pytest.mark.parametrize("chunks", [2, 3, 4])
def test_chunks_of_an_all_gather_take_turns_on_the_links_of_a_ring(chunks):
    """All start at once; with A <= chunks * x links never idle: 3 rounds of ``chunks`` x, then the last arrives."""
    size = 10 * MIB
    ring = Dim("Ring", 4)
    busy, arrival = ring.transfer_ns(size), ring.message_ns(size)
    assert arrival + 2 * STEP <= chunks * busy
    system = {"preferred_dataset_splits": chunks, "active_chunks_per_dimension": chunks}
    target = aware(ring, all_gather=("ring",), **system)
    end = run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 4, sizes=[chunks * size])
    assert end == STEP + (3 * chunks - 1) * busy + arrival + STEP


def test_two_queues_run_in_opposite_directions_and_do_not_contend():
    """step + 2 (n-1) (msg + step) + (n-1) red, as if each chunk were alone."""
    message = MIB // 8
    alone = STEP + 14 * (RING.message_ns(message) + STEP) + 7 * reduction_ns(message)
    target = aware(RING, queues=2, preferred_dataset_splits=2)
    assert run(target, [[all_reduce(0)]] * 8, sizes=[2 * MIB]) == alone


# Several dimensions

ROW = Dim("Ring", 4, 50, 500)
COLUMN = Dim("Switch", 3, 25, 2000)
MESH = Dim("FullyConnected", 2, 100, 100)
ROW_A, ROW_X = ROW.message_ns(SIZE), ROW.transfer_ns(SIZE)
COLUMN_A, COLUMN_X = COLUMN.message_ns(SIZE), COLUMN.transfer_ns(SIZE)


def test_a_message_pays_for_every_dimension_that_it_crosses():
    """(0, 0, 0) to (2, 1, 1) of 4 x 3 x 2: two hops, a switch, one hop."""
    destination = 2 + 4 * (1 + 3 * 1)
    expected = 2 * ROW_A + 2 * COLUMN_A + MESH.message_ns(SIZE)
    assert send_all(aware(ROW, COLUMN, MESH), [(0, destination)]) == [expected]


def test_dimensions_are_crossed_in_ascending_order():
    """(0, 0, 0) to (1, 2, 1) of 4 x 3 x 2, over NPUs 1 and 9."""
    target = aware(ROW, COLUMN, MESH)
    send_all(target, [(0, 21)])
    assert links(target) == [
        "dim 0: NPU 0 -> NPU 1",
        "dim 1: NPU 1 -> switch",
        "dim 1: switch -> NPU 9",
        "dim 2: NPU 9 -> NPU 21",
    ]


def test_a_dimension_in_which_the_ends_agree_costs_nothing():
    assert send_all(aware(ROW, COLUMN, MESH), [(1, 13)]) == [MESH.message_ns(SIZE)]


def test_crossing_messages_share_no_link():
    """(0, 0) -> (1, 1) turns at (1, 0), (1, 1) -> (0, 0) at (0, 1)."""
    way = ROW_A + 2 * COLUMN_A
    assert send_all(aware(ROW, COLUMN), [(0, 5), (5, 0)]) == [way, way]


def test_messages_that_turn_at_one_npu_share_its_links_of_the_next_dimension():
    """(0, 0) and (2, 0) both come to (1, 0) at A, then go to (1, 1): the second one dimension 1's x later."""
    way = ROW_A + 2 * COLUMN_A
    assert send_all(aware(ROW, COLUMN), [(0, 5), (2, 5)]) == [way, way + COLUMN_X]


def test_rings_of_one_dimension_have_links_of_their_own():
    """0 -> 2 and 4 -> 6 are in different rows of 4 x 3."""
    assert send_all(aware(ROW, COLUMN), [(0, 2), (4, 6)]) == [2 * ROW_A, 2 * ROW_A]


def test_switches_of_one_dimension_are_separate():
    """Incasts at NPUs 0 and 1 from the other rows, each at the switch of its column."""
    landed = send_all(aware(ROW, COLUMN), [(4, 0), (8, 0), (5, 1), (9, 1)])
    assert landed == [2 * COLUMN_A, 2 * COLUMN_A + COLUMN_X] * 2


def test_an_incast_through_two_dimensions_queues_at_the_last_turn():
    """Rows of a full mesh of 4 x 2: 5, 6, 7 come to 4 at once and follow each other to 0; 4 itself was first."""
    row, column = Dim("FullyConnected", 4, 50, 500), Dim("FullyConnected", 2, 100, 100)
    landed = send_all(aware(row, column), [(4, 0), (5, 0), (6, 0), (7, 0)])
    first, busy, last = row.message_ns(SIZE), column.transfer_ns(SIZE), column.message_ns(SIZE)
    assert landed == [last, first + last, first + busy + last, first + 2 * busy + last]


def test_a_ring_all_reduce_in_every_dimension_contends_nowhere():
    """Neighbours are one hop apart: the sum of the phases' closed forms."""
    dims = Dim("Ring", 4, 50, 500), Dim("Ring", 2, 100, 50), Dim("Ring", 3, 25, 1000)
    expected = 0
    for dim in dims:
        message = MIB // dim.npus
        steps = 2 * (dim.npus - 1)
        expected += STEP + steps * (dim.message_ns(message) + STEP) + steps // 2 * reduction_ns(message)
    assert run(aware(*dims, all_reduce=("ring",) * 3), [[all_reduce(0)]] * 24, sizes=[MIB]) == expected


# Properties

KINDS = {
    CollectiveKind.ALL_REDUCE: "all_reduce",
    CollectiveKind.ALL_GATHER: "all_gather",
    CollectiveKind.REDUCE_SCATTER: "reduce_scatter",
    CollectiveKind.ALL_TO_ALL: "all_to_all",
}


@st.composite
def collectives(draw):
    """A chain of collectives on up to 8 NPUs: what both backends run."""
    npus = draw(st.sampled_from([2, 3, 4, 8]))
    names = ["ring", "direct", "direct1", "direct2"]
    if npus != 3:
        names += ["halvingDoubling", "doubleBinaryTree"]
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=2))
    system = {KINDS[kind]: (draw(st.sampled_from(names)),) for kind in kinds}
    if system.get("all_to_all") == ("halvingDoubling",):
        system["all_to_all"] = ("ring",)
    chunks = {
        "preferred_dataset_splits": draw(st.integers(1, 5)),
        "active_chunks_per_dimension": draw(st.integers(1, 5)),
    }
    queues = draw(st.integers(1, 3))
    size = draw(st.integers(8, 10 * MIB))
    nodes = [collective(index, kind, *range(index)) for index, kind in enumerate(kinds)]
    return npus, nodes, size, {**system, **chunks, "queues": queues}


def simulate(wiring, workload, backend):
    npus, nodes, size, options = workload
    target = mesh(Dim(wiring, npus), backend=backend, **options)
    target.record()
    run(target, [nodes] * npus, sizes=[size])
    return target


@given(collectives())
@settings(max_examples=60)
def test_contention_never_makes_an_npu_faster_in_a_full_mesh(workload):
    free = finishes(simulate("FullyConnected", workload, "unaware"))
    shared = finishes(simulate("FullyConnected", workload, "aware"))
    assert all(slow >= fast for slow, fast in zip(shared, free, strict=True))


@given(collectives())
@settings(max_examples=60)
def test_without_contention_a_full_mesh_takes_the_same_time(workload):
    """One collective of one chunk: no pair of NPUs has two messages under way."""
    npus, nodes, size, options = workload
    alone = npus, nodes[:1], size, options | {"preferred_dataset_splits": 1, "active_chunks_per_dimension": 1}
    free = simulate("FullyConnected", alone, "unaware")
    assert finishes(simulate("FullyConnected", alone, "aware")) == finishes(free)


@given(collectives(), st.sampled_from(["Ring", "Switch", "FullyConnected"]))
@settings(max_examples=40)
def test_messages_of_one_link_follow_each_other(workload, wiring):
    target = simulate(wiring, workload, "aware")
    spans = sorted(target.link_spans(), key=lambda span: span.link)
    for _, on_link in itertools.groupby(spans, key=lambda span: span.link):
        for before, after in itertools.pairwise(on_link):
            assert before.end_ns <= after.begin_ns


@given(collectives(), st.sampled_from(["Ring", "Switch", "FullyConnected"]))
@settings(max_examples=40)
def test_two_runs_are_the_same_to_the_last_message(workload, wiring):
    first, second = (simulate(wiring, workload, "aware") for _ in range(2))
    assert first.link_spans() == second.link_spans()
    assert first.node_spans() == second.node_spans()
    assert first.counters == second.counters

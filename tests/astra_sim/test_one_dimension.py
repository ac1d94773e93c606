"""oneRing, oneDirect, oneHalvingDoubling: all NPUs of a network of several dimensions as one dimension.

On the congestion-unaware network a message is charged for the lowest dimension in which its ends differ, so
in NPU order a ring only ever pays for dimension 0: also its step from one row to the next, which is one hop of
a ring of dimension 0.
"""

from __future__ import annotations

import pytest
from astra_sim_builders import MIB, STEP, Dim, all_reduce, among, collective, mesh, reduction_ns, run

from astra_sim import CollectiveKind

NEAR = Dim("Ring", 4, 50, 500)
FAR = Dim("Switch", 2, 25, 3000)
PAIR = Dim("FullyConnected", 2, 50, 500)
LINE = Dim("FullyConnected", 2, 25, 3000)


def test_one_ring_all_reduce_goes_round_all_npus():
    """step + 2 (n-1) (msg(D/8) + step) + (n-1) red(D/8), n = 8, every message one hop of dimension 0"""
    message = MIB // 8
    expected = STEP + 14 * (NEAR.message_ns(message) + STEP) + 7 * reduction_ns(message)
    target = mesh(NEAR, FAR, all_reduce=("oneRing",))
    assert run(target, [[all_reduce(0)]] * 8, sizes=[MIB]) == expected


def test_one_ring_sends_to_the_next_npu_number():
    target = mesh(NEAR, FAR, all_gather=("oneRing",))
    target.record()
    run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 8, sizes=[MIB])
    assert {(span.source, span.destination) for span in target.link_spans()} == {
        (npu, (npu + 1) % 8) for npu in range(8)
    }


def test_one_ring_all_to_all_relays_28_messages():
    expected = STEP + 28 * (NEAR.message_ns(MIB // 8) + STEP)
    target = mesh(NEAR, FAR, all_to_all=("oneRing",))
    assert run(target, [[collective(0, CollectiveKind.ALL_TO_ALL)]] * 8, sizes=[MIB]) == expected


def test_one_direct_is_as_slow_as_its_farthest_partner():
    """2x2: partners at 1, 2, 3 pay for dimensions 0, 1, 0; 3 step + 2 msg + red with dimension 1's msg."""
    message = MIB // 4
    expected = 3 * STEP + 2 * LINE.message_ns(message) + reduction_ns(message)
    target = mesh(PAIR, LINE, all_reduce=("oneDirect",))
    assert run(target, [[all_reduce(0)]] * 4, sizes=[MIB]) == expected


def test_one_direct_takes_a_window():
    """2x2, w = 1: rounds at distances 1, 2, 3, which pay for dimensions 0, 1, 0."""
    steps = [PAIR.message_ns(MIB), LINE.message_ns(MIB), PAIR.message_ns(MIB)]
    target = mesh(PAIR, LINE, all_gather=("oneDirect1",))
    expected = STEP + sum(step + STEP for step in steps)
    assert run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 4, sizes=[MIB]) == expected


def test_one_halving_doubling_crosses_the_dimensions_by_offset():
    """2x2: offsets 1, 2, 2, 1 are dimensions 0, 1, 1, 0; one reduction, of D/4."""
    half, quarter = MIB // 2, MIB // 4
    messages = 2 * PAIR.message_ns(half) + 2 * LINE.message_ns(quarter)
    expected = 5 * STEP + messages + reduction_ns(quarter)
    target = mesh(PAIR, LINE, all_reduce=("oneHalvingDoubling",))
    assert run(target, [[all_reduce(0)]] * 4, sizes=[MIB]) == expected


def test_local_bandwidth_aware_is_a_plain_all_reduce_in_one_dimension():
    message = MIB // 8
    expected = STEP + 14 * (NEAR.message_ns(message) + STEP) + 7 * reduction_ns(message)
    target = mesh(NEAR, FAR, all_reduce=("oneRing",), collective_optimization="localBWAware")
    assert run(target, [[all_reduce(0)]] * 8, sizes=[MIB]) == expected


def test_each_kind_of_collective_has_its_own_dimensions():
    """The all-reduce goes round all NPUs, the all-gather through dimension 1 (D), then 0 (2 D)."""
    target = mesh(PAIR, LINE, all_reduce=("oneRing",), all_gather=("ring", "ring"))
    gather = STEP + LINE.message_ns(MIB) + STEP + STEP + PAIR.message_ns(2 * MIB) + STEP
    assert run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 4, sizes=[MIB]) == gather


def test_involved_dim_is_that_of_the_single_dimension():
    target = mesh(PAIR, LINE, all_gather=("oneRing",))
    node = collective(0, CollectiveKind.ALL_GATHER, involved_dims=(True, False))
    expected = STEP + 3 * (PAIR.message_ns(MIB) + STEP)
    assert run(target, [[node]] * 4, sizes=[MIB]) == expected


def test_a_group_runs_the_same_algorithm_among_its_members():
    """Direct in a group of 3 reduces in both halves: 3 * 10 + 2 msg + 2 red; 0-3 and 3-6 differ in dimension 0."""
    members = (0, 3, 6)
    target = mesh(NEAR, FAR, all_reduce=("oneDirect",))
    message = MIB // 3
    far = NEAR.message_ns(message, 2)  # 0 to 6: coordinates 0 and 2 of dimension 0
    expected = 3 * 10 + 2 * far + 2 * reduction_ns(message)
    graphs = among(8, members, all_reduce(0, group=members))
    assert run(target, graphs, sizes=[MIB]) == expected


def test_one_halving_doubling_needs_a_power_of_two_in_all():
    with pytest.raises(ValueError, match="halvingDoubling needs a power of two of NPUs, not 6"):
        run(
            mesh(Dim("Ring", 3), Dim("Ring", 2), all_reduce=("oneHalvingDoubling",)),
            [[all_reduce(0)]] * 6,
            sizes=[MIB],
        )


@pytest.mark.parametrize("names", [("ring",), ("direct",), ("ring", "ring", "ring")])
def test_other_algorithms_are_named_once_per_dimension(names):
    message = f"names {len(names)} algorithms for this collective, the network has 2 dimensions"
    with pytest.raises(ValueError, match=message):
        run(mesh(PAIR, LINE, all_reduce=names), [[all_reduce(0)]] * 4, sizes=[MIB])


@pytest.mark.parametrize("name", ["oneDoubleBinaryTree", "one", "onering", "oneDirect0"])
def test_there_is_no_other_of_its_kind(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a collective algorithm"):
        mesh(PAIR, LINE, all_reduce=(name,))

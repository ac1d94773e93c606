"""Direct collectives against their closed forms on the congestion-unaware network.

With step = endpoint-delay, msg = latency + (D/n)/bandwidth and red = 3 * int((D/n) / local-mem-bw), all n-1
messages of a half at once:

* all-gather (messages of D), all-to-all:  2 step + msg
* reduce-scatter:                          2 step + msg + red
* all-reduce:                              3 step + 2 msg + red

With a window of w messages a half takes R = ceil((n-1)/w) rounds instead, each round msg + step.
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
    engine,
    finishes,
    mesh,
    message_ns,
    reduction_ns,
    run,
)

from astra_sim import CollectiveKind

ALL = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"}


def time_of(kind: CollectiveKind, n: int, window: int | str = "", wiring: str = "FullyConnected") -> int:
    """Time of one collective of 1 MiB on a whole system of n NPUs."""
    names = dict.fromkeys(ALL, (f"direct{window}",))
    return run(engine(n, wiring, **names), [[collective(0, kind)]] * n, sizes=[MIB])


def time_in_group(kind: CollectiveKind, n: int, window: int | str = "") -> int:
    """Time of one collective of 1 MiB in a group of n of 16 NPUs."""
    members = tuple(range(n))
    target = engine(16, "FullyConnected", **dict.fromkeys(ALL, (f"direct{window}",)))
    node = collective(0, kind, group=members)
    return run(target, among(16, members, node), sizes=[MIB])


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_an_all_reduce_sends_two_bursts_and_reduces_once(n):
    expected = 3 * STEP + 2 * message_ns(MIB // n) + reduction_ns(MIB // n)
    assert time_of(CollectiveKind.ALL_REDUCE, n) == expected


@pytest.mark.parametrize("n", [2, 3, 8])
def test_an_all_gather_sends_whole_shards_at_once(n):
    assert time_of(CollectiveKind.ALL_GATHER, n) == 2 * STEP + message_ns(MIB)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_reduce_scatter_reduces_all_its_messages_side_by_side(n):
    expected = 2 * STEP + message_ns(MIB // n) + reduction_ns(MIB // n)
    assert time_of(CollectiveKind.REDUCE_SCATTER, n) == expected


@pytest.mark.parametrize("n", [2, 3, 8])
def test_an_all_to_all_is_one_burst_without_reductions(n):
    assert time_of(CollectiveKind.ALL_TO_ALL, n) == 2 * STEP + message_ns(MIB // n)


def test_every_npu_sends_to_every_other_one():
    target = engine(5, "FullyConnected", all_to_all=("direct",))
    target.record()
    run(target, [[collective(0, CollectiveKind.ALL_TO_ALL)]] * 5, sizes=[MIB])
    pairs = sorted((span.source, span.destination) for span in target.link_spans())
    assert pairs == [(a, b) for a in range(5) for b in range(5) if a != b]


def test_the_farthest_partner_of_a_ring_decides():
    """On a ring of 8 the longest shorter way is 4 hops."""
    expected = 3 * STEP + 2 * message_ns(MIB // 8, 4) + reduction_ns(MIB // 8)
    assert time_of(CollectiveKind.ALL_REDUCE, 8, wiring="Ring") == expected


@pytest.mark.parametrize(("n", "window", "rounds"), [(5, 1, 4), (5, 2, 2), (6, 2, 3), (8, 3, 3)])
def test_a_window_cuts_a_burst_into_rounds(n, window, rounds):
    expected = STEP + rounds * (message_ns(MIB) + STEP)
    assert time_of(CollectiveKind.ALL_GATHER, n, window) == expected


@pytest.mark.parametrize(("n", "window", "rounds", "reduced"), [(5, 1, 4, 2), (6, 2, 3, 2), (8, 3, 3, 2)])
def test_a_windowed_reduce_scatter_charges_every_second_round_of_receipts(n, window, rounds, reduced):
    """Of inserts j, those with j mod 2w >= w are reduced: rounds 1, 3, 5, ..."""
    expected = STEP + rounds * (message_ns(MIB // n) + STEP) + reduced * reduction_ns(MIB // n)
    assert time_of(CollectiveKind.REDUCE_SCATTER, n, window) == expected


@pytest.mark.parametrize(
    ("n", "window", "rounds", "reduced"), [(4, 1, 6, 2), (5, 2, 4, 1), (9, 2, 8, 2), (7, 3, 4, 1)]
)
def test_a_windowed_all_reduce_charges_every_fourth_round_of_receipts(n, window, rounds, reduced):
    """Only in even cycles of 2w inserts: rounds 1, 5, 9, ... of 2 (n-1) / w."""
    expected = STEP + rounds * (message_ns(MIB // n) + STEP) + reduced * reduction_ns(MIB // n)
    assert time_of(CollectiveKind.ALL_REDUCE, n, window) == expected


def test_the_second_half_waits_for_all_of_the_first():
    """n = 4, w = 2: rounds of 2, 1, then (3 received) 2, 1 messages; only the first is reduced."""
    expected = STEP + 4 * (message_ns(MIB // 4) + STEP) + reduction_ns(MIB // 4)
    assert time_of(CollectiveKind.ALL_REDUCE, 4, 2) == expected


def test_the_second_half_waits_for_the_farthest_partner():
    """On a ring of 4 partners at 1, 2 and 1 hops: the early ones' credits are spent when the late one came."""
    message, far = MIB // 4, message_ns(MIB // 4, 2)
    expected = 3 * STEP + 2 * far + reduction_ns(message)
    assert time_of(CollectiveKind.ALL_REDUCE, 4, wiring="Ring") == expected


@pytest.mark.parametrize("kind", [CollectiveKind.ALL_REDUCE, CollectiveKind.REDUCE_SCATTER])
@pytest.mark.parametrize("window", [3, 4, 100])
def test_a_window_of_all_partners_or_more_is_no_window(kind, window):
    assert time_of(kind, 4, window) == time_of(kind, 4)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_in_a_group_the_gather_half_is_charged_for_reductions_too(n):
    """z, m = w, w (n-1): inserts w .. wn-1 reduce, and an all-reduce has 3w of them."""
    expected = 3 * 10 + 2 * message_ns(MIB // n) + 2 * reduction_ns(MIB // n)
    assert time_in_group(CollectiveKind.ALL_REDUCE, n) == expected


def test_a_group_of_two_reduces_once():
    """z + m = 2: the third insert is in the odd cycle already."""
    expected = 3 * 10 + 2 * message_ns(MIB // 2) + reduction_ns(MIB // 2)
    assert time_in_group(CollectiveKind.ALL_REDUCE, 2) == expected


def test_a_windowed_all_reduce_in_a_group_reduces_in_its_first_rounds():
    """n = 4, w = 1: inserts 1, 2, 3 of the first cycle of 4 reduce, those of the second cycle do not."""
    expected = 10 + 6 * (message_ns(MIB // 4) + 10) + 3 * reduction_ns(MIB // 4)
    assert time_in_group(CollectiveKind.ALL_REDUCE, 4, 1) == expected


def test_a_windowed_reduce_scatter_in_a_group_reduces_every_receipt():
    expected = 10 + 3 * (message_ns(MIB // 4) + 10) + 3 * reduction_ns(MIB // 4)
    assert time_in_group(CollectiveKind.REDUCE_SCATTER, 4, 1) == expected


def test_a_group_steps_in_10_ns_whatever_the_endpoint_delay():
    members = (1, 2)
    target = engine(4, "FullyConnected", all_gather=("direct",), endpoint_delay_ns=7000)
    node = collective(0, CollectiveKind.ALL_GATHER, group=members)
    assert run(target, among(4, members, node), sizes=[MIB]) == 2 * 10 + message_ns(MIB)


def test_the_endpoint_delay_is_that_of_the_system_otherwise():
    target = engine(3, "FullyConnected", all_gather=("direct",), endpoint_delay_ns=7000)
    nodes = [collective(0, CollectiveKind.ALL_GATHER)]
    assert run(target, [nodes] * 3, sizes=[MIB]) == 2 * 7000 + message_ns(MIB)


def test_all_npus_finish_together():
    target = engine(6, "FullyConnected", all_reduce=("direct",))
    end = run(target, [[all_reduce(0)]] * 6, sizes=[MIB])
    assert finishes(target) == [end] * 6


def test_bytes_sent_are_those_of_all_pairs():
    target = engine(4, "FullyConnected", all_reduce=("direct",))
    run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
    assert target.collective_bytes == 4 * 2 * 3 * (MIB // 4)


def test_with_the_upper_half_of_the_queues_the_order_of_partners_turns_round():
    """q = 2: the second stream runs anticlockwise, and so sends to NPUs 3, 2, 1 in this order."""
    target = mesh(Dim("FullyConnected", 4), queues=2, all_gather=("direct",), preferred_dataset_splits=2)
    target.record()
    run(target, [[collective(0, CollectiveKind.ALL_GATHER)]] * 4, sizes=[MIB])
    assert [span.destination for span in target.link_spans() if span.source == 0] == [1, 2, 3, 3, 2, 1]


@pytest.mark.parametrize("name", ["direct0", "direct-1", "directX", "direct1.5"])
def test_a_window_must_be_a_number_above_0(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a collective algorithm"):
        engine(4, all_reduce=(name,))

"""Halving-doubling against its closed forms on the congestion-unaware network.

n = 2^L NPUs; message j goes to and comes from NPU xor offset. All-reduce: offsets 1, 2, .., n/2, n/2, .., 2, 1
and sizes D/2, D/4, .., D/n, D/n, .., D/2. Reduce-scatter: the first half of it. All-gather: offsets n/2, .., 1
and sizes D, 2D, .., D n/2. With step = endpoint-delay:

    step + sum over the messages (msg(size) + step) + sum over messages 1 .. L-1 of red(size)

The reduction is charged on the size of the next message, and the last of L reductions never.
"""

from __future__ import annotations

import pytest
from astra_sim_builders import (
    MIB,
    STEP,
    all_reduce,
    among,
    collective,
    engine,
    finishes,
    message_ns,
    reduction_ns,
    run,
)

from astra_sim import CollectiveKind

NAMES = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter"), ("halvingDoubling",))


def time_of(kind: CollectiveKind, n: int, size: int = MIB, wiring: str = "FullyConnected") -> int:
    return run(engine(n, wiring, **NAMES), [[collective(0, kind)]] * n, sizes=[size])


def steps_ns(sizes: list[int], hops: list[int] | None = None) -> int:
    """step + sum (msg + step)"""
    ways = hops or [1] * len(sizes)
    return STEP + sum(message_ns(size, way) + STEP for size, way in zip(sizes, ways, strict=True))


def test_all_reduce_of_two_never_reduces():
    """step + 2 (msg(D/2) + step)"""
    assert time_of(CollectiveKind.ALL_REDUCE, 2) == steps_ns([MIB // 2] * 2)


def test_all_reduce_of_four():
    """D/2, D/4, D/4, D/2; one reduction, of the second message."""
    expected = steps_ns([MIB // 2, MIB // 4, MIB // 4, MIB // 2]) + reduction_ns(MIB // 4)
    assert time_of(CollectiveKind.ALL_REDUCE, 4) == expected


def test_all_reduce_of_eight():
    """D/2, D/4, D/8 and back; the reductions are of D/4 and D/8."""
    down = [MIB // 2, MIB // 4, MIB // 8]
    expected = steps_ns([*down, *reversed(down)]) + reduction_ns(MIB // 4) + reduction_ns(MIB // 8)
    assert time_of(CollectiveKind.ALL_REDUCE, 8) == expected


def test_reduce_scatter_is_the_first_half():
    down = [MIB // 2, MIB // 4, MIB // 8]
    expected = steps_ns(down) + reduction_ns(MIB // 4) + reduction_ns(MIB // 8)
    assert time_of(CollectiveKind.REDUCE_SCATTER, 8) == expected


def test_all_gather_doubles_and_reduces_nothing():
    assert time_of(CollectiveKind.ALL_GATHER, 8) == steps_ns([MIB, 2 * MIB, 4 * MIB])


def test_on_a_ring_an_all_reduce_goes_far_in_the_middle():
    """Offsets 1, 2, 4, 4, 2, 1 on a ring of 8 are as many hops."""
    down = [MIB // 2, MIB // 4, MIB // 8]
    sizes = steps_ns([*down, *reversed(down)], [1, 2, 4, 4, 2, 1])
    expected = sizes + reduction_ns(MIB // 4) + reduction_ns(MIB // 8)
    assert time_of(CollectiveKind.ALL_REDUCE, 8, wiring="Ring") == expected


def test_on_a_ring_an_all_gather_comes_home():
    assert time_of(CollectiveKind.ALL_GATHER, 8, wiring="Ring") == steps_ns(
        [MIB, 2 * MIB, 4 * MIB], [4, 2, 1]
    )


def test_partners_are_those_whose_number_differs_in_one_bit():
    target = engine(8, "FullyConnected", **NAMES)
    target.record()
    run(target, [[all_reduce(0)]] * 8, sizes=[MIB])
    sent_by_5 = [span.destination for span in target.link_spans() if span.source == 5]
    assert sent_by_5 == [5 ^ 1, 5 ^ 2, 5 ^ 4, 5 ^ 4, 5 ^ 2, 5 ^ 1]


def test_odd_sizes_are_halved_with_a_cut_and_doubled_from_there():
    """D = 1001: 500, 250; then (125, the next half) doubled: 250, 500."""
    target = engine(4, "FullyConnected", **NAMES)
    target.record()
    run(target, [[all_reduce(0)]] * 4, sizes=[1001])
    assert [span.bytes for span in target.link_spans() if span.source == 0] == [500, 250, 250, 500]


def test_what_the_cut_takes_does_not_come_back():
    """D = 1006: 503, 251; then (125, the next half) doubled: 250, 500."""
    target = engine(4, "FullyConnected", **NAMES)
    target.record()
    run(target, [[all_reduce(0)]] * 4, sizes=[1006])
    assert [span.bytes for span in target.link_spans() if span.source == 0] == [503, 251, 250, 500]


def test_all_npus_finish_together():
    target = engine(8, "FullyConnected", **NAMES)
    end = run(target, [[all_reduce(0)]] * 8, sizes=[MIB])
    assert finishes(target) == [end] * 8


def test_in_a_group_partners_are_members_and_steps_take_10_ns():
    """The group's order counts: 6 and 0 differ in bit 0 of their positions, as do 3 and 5."""
    members = (6, 0, 3, 5)
    target = engine(7, "FullyConnected", **NAMES, endpoint_delay_ns=900)
    target.record()
    node = all_reduce(0, group=members)
    end = run(target, among(7, members, node), sizes=[MIB])
    messages = [MIB // 2, MIB // 4, MIB // 4, MIB // 2]
    assert end == 10 + sum(message_ns(size) + 10 for size in messages) + reduction_ns(MIB // 4)
    assert [span.destination for span in target.link_spans() if span.source == 6] == [0, 3, 3, 0]


@pytest.mark.parametrize("n", [3, 6, 12])
@pytest.mark.parametrize(
    "kind", [CollectiveKind.ALL_REDUCE, CollectiveKind.ALL_GATHER, CollectiveKind.REDUCE_SCATTER]
)
def test_other_counts_than_powers_of_two_are_refused(kind, n):
    message = f"halvingDoubling needs a power of two of NPUs, not {n}; use ring or direct"
    with pytest.raises(ValueError, match=rf"NPU 0, node 0 \({kind.name}\): {message}"):
        time_of(kind, n)


def test_a_group_of_three_is_refused_in_a_system_of_eight():
    node = all_reduce(0, group=(0, 1, 2))
    with pytest.raises(ValueError, match="needs a power of two of NPUs, not 3"):
        run(engine(8, **NAMES), among(8, (0, 1, 2), node), sizes=[MIB])


def test_there_is_no_all_to_all():
    target = engine(4, all_to_all=("halvingDoubling",))
    with pytest.raises(ValueError, match="halvingDoubling has no all-to-all; use ring or direct"):
        run(target, [[collective(0, CollectiveKind.ALL_TO_ALL)]] * 4, sizes=[MIB])

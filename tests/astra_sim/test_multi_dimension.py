"""Collectives through several dimensions as sums of closed forms, one per phase, and how phases share queues.

A ring phase among n NPUs with data D takes, all NPUs alike,

    all-reduce      step + 2 (n-1) (msg(D/n) + step) + (n-1) red(D/n)
    reduce-scatter  step + (n-1) (msg(D/n) + step + red(D/n))
    all-gather      step + (n-1) (msg(D) + step)
    all-to-all      step + n (n-1) / 2 (msg(D/n) + step)
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
    mesh,
    reduction_ns,
    run,
)

from astra_sim import CollectiveKind

SLOW = Dim("Ring", 4, 50, 500)
FAST = Dim("FullyConnected", 2, 400, 100)
WIDE = Dim("Switch", 3, 100, 900)
HOPS = {"Ring": 1, "FullyConnected": 1, "Switch": 2}


def reduce_ns(dim: Dim, data: int) -> int:
    n, message = dim.npus, data // dim.npus
    steps = 2 * (n - 1) * (dim.message_ns(message, HOPS[dim.wiring]) + STEP)
    return STEP + steps + (n - 1) * reduction_ns(message)


def scatter_ns(dim: Dim, data: int) -> int:
    message = data // dim.npus
    return STEP + (dim.npus - 1) * (dim.message_ns(message, HOPS[dim.wiring]) + STEP + reduction_ns(message))


def gather_ns(dim: Dim, data: int) -> int:
    return STEP + (dim.npus - 1) * (dim.message_ns(data, HOPS[dim.wiring]) + STEP)


def exchange_ns(dim: Dim, data: int) -> int:
    n = dim.npus
    return STEP + n * (n - 1) // 2 * (dim.message_ns(data // n, HOPS[dim.wiring]) + STEP)


def time_of(dims: tuple[Dim, ...], size: int = MIB, queues: int = 1, node=None, **system) -> int:
    """Time of one ring all-reduce (or of ``node``) of a whole system."""
    rings = {"all_reduce": ("ring",) * len(dims)} | system
    target = mesh(*dims, queues=queues, **rings)
    return run(target, [[node or all_reduce(0)]] * target.npu_count, sizes=[size])


def first_messages(dims: tuple[Dim, ...], count: int, queues: int, **system) -> list[int]:
    """Destinations of the first messages of NPU 0."""
    rings = {"all_reduce": ("ring",) * len(dims)} | system
    target = mesh(*dims, queues=queues, **rings)
    target.record()
    run(target, [[all_reduce(0)]] * target.npu_count, sizes=[MIB])
    return [span.destination for span in target.link_spans() if span.source == 0][:count]


# Phases


def test_baseline_all_reduces_the_whole_data_in_every_dimension():
    assert time_of((SLOW, FAST)) == reduce_ns(SLOW, MIB) + reduce_ns(FAST, MIB)


def test_baseline_in_three_dimensions():
    expected = reduce_ns(SLOW, MIB) + reduce_ns(FAST, MIB) + reduce_ns(WIDE, MIB)
    assert time_of((SLOW, FAST, WIDE)) == expected


def test_local_bandwidth_aware_reduces_a_share_in_the_last_dimension():
    expected = scatter_ns(SLOW, MIB) + reduce_ns(FAST, MIB // 4) + gather_ns(SLOW, MIB // 4)
    assert time_of((SLOW, FAST), collective_optimization="localBWAware") == expected


def test_local_bandwidth_aware_in_three_dimensions_goes_up_and_down():
    up = scatter_ns(SLOW, MIB) + scatter_ns(FAST, MIB // 4)
    top = reduce_ns(WIDE, MIB // 8)
    down = gather_ns(FAST, MIB // 8) + gather_ns(SLOW, MIB // 4)
    assert time_of((SLOW, FAST, WIDE), collective_optimization="localBWAware") == up + top + down


def test_all_gather_goes_down_and_grows():
    node = collective(0, CollectiveKind.ALL_GATHER)
    expected = gather_ns(WIDE, MIB) + gather_ns(FAST, 3 * MIB) + gather_ns(SLOW, 6 * MIB)
    assert time_of((SLOW, FAST, WIDE), node=node, all_gather=("ring",) * 3) == expected


def test_reduce_scatter_goes_up_and_shrinks():
    node = collective(0, CollectiveKind.REDUCE_SCATTER)
    expected = scatter_ns(SLOW, MIB) + scatter_ns(FAST, MIB // 4) + scatter_ns(WIDE, MIB // 8)
    assert time_of((SLOW, FAST, WIDE), node=node, reduce_scatter=("ring",) * 3) == expected


def test_all_to_all_goes_up_with_constant_data():
    node = collective(0, CollectiveKind.ALL_TO_ALL)
    expected = exchange_ns(SLOW, MIB) + exchange_ns(FAST, MIB) + exchange_ns(WIDE, MIB)
    assert time_of((SLOW, FAST, WIDE), node=node, all_to_all=("ring",) * 3) == expected


def test_a_dimension_of_one_npu_is_no_phase():
    single = Dim("Switch", 1)
    assert time_of((single, SLOW, single)) == reduce_ns(SLOW, MIB)


def test_every_dimension_has_its_algorithm():
    """Direct: 3 step + 2 msg + red of D/n, all partners of a full mesh at once."""
    message = MIB // 4
    mesh4 = Dim("FullyConnected", 4, 50, 500)
    direct = 3 * STEP + 2 * mesh4.message_ns(message) + reduction_ns(message)
    assert time_of((mesh4, FAST), all_reduce=("direct", "ring")) == direct + reduce_ns(FAST, MIB)


# involved_dim


@pytest.mark.parametrize(
    ("involved", "phases"),
    [
        ((True, False, False), [SLOW]),
        ((False, True, False), [FAST]),
        ((True, False, True), [SLOW, WIDE]),
        ((False, True, True, False), [FAST, WIDE]),
    ],
)
def test_a_dimension_that_is_not_involved_is_no_phase(involved, phases):
    node = all_reduce(0, involved_dims=involved)
    assert time_of((SLOW, FAST, WIDE), node=node) == sum(reduce_ns(dim, MIB) for dim in phases)


def test_the_last_involved_dimension_is_where_local_bandwidth_aware_turns():
    node = all_reduce(0, involved_dims=(True, True, False))
    expected = scatter_ns(SLOW, MIB) + reduce_ns(FAST, MIB // 4) + gather_ns(SLOW, MIB // 4)
    assert time_of((SLOW, FAST, WIDE), node=node, collective_optimization="localBWAware") == expected


def test_an_all_gather_does_not_grow_in_dimensions_that_are_not_involved():
    node = collective(0, CollectiveKind.ALL_GATHER, involved_dims=(True, False, True))
    expected = gather_ns(WIDE, MIB) + gather_ns(SLOW, 3 * MIB)
    assert time_of((SLOW, FAST, WIDE), node=node, all_gather=("ring",) * 3) == expected


def test_involved_dim_needs_an_entry_per_dimension():
    with pytest.raises(ValueError, match="involved_dim has 2 entries; give one for each of the 3 dimensions"):
        time_of((SLOW, FAST, WIDE), node=all_reduce(0, involved_dims=(True, True)))


def test_no_dimension_involved_is_refused():
    with pytest.raises(ValueError, match="the collective involves no dimension with more than one NPU"):
        time_of((SLOW, FAST), node=all_reduce(0, involved_dims=(False, False)))


def test_a_group_of_the_whole_system_is_no_group_and_takes_all_dimensions():
    node = all_reduce(0, group=tuple(range(8)), involved_dims=(True, False))
    assert time_of((SLOW, FAST), node=node) == reduce_ns(SLOW, MIB) + reduce_ns(FAST, MIB)


def test_a_smaller_group_is_one_ring_whatever_the_lists_name():
    """NPUs 0, 1, 2 at a switch of dimension 0, with several names in the list: ring, in steps of 10 ns."""
    message, members = MIB // 3, (0, 1, 2)
    target = mesh(WIDE, FAST, all_reduce=("direct", "direct"), endpoint_delay_ns=444)
    expected = 10 + 4 * (WIDE.message_ns(message, 2) + 10) + 2 * reduction_ns(message)
    assert run(target, among(6, members, all_reduce(0, group=members)), sizes=[MIB]) == expected


# Chunks


@pytest.mark.parametrize(("splits", "chunks"), [(1, 1), (2, 2), (4, 4)])
def test_chunks_follow_each_other_through_the_dimensions(splits, chunks):
    """While one is in dimension 1 the next is in dimension 0: the slower dimension decides."""
    size = MIB // splits
    slow, fast = reduce_ns(SLOW, size), reduce_ns(FAST, size)
    expected = slow + fast + (chunks - 1) * max(slow, fast)
    assert time_of((SLOW, FAST), preferred_dataset_splits=splits) == expected


def test_a_remainder_is_one_more_full_chunk():
    """1,000,003 bytes in 4 chunks are 5 of 250,000."""
    slow, fast = reduce_ns(SLOW, 250_000), reduce_ns(FAST, 250_000)
    assert time_of((SLOW, FAST), 1_000_003, preferred_dataset_splits=4) == 5 * slow + fast


def test_chunks_have_at_least_a_byte_per_npu_of_the_system():
    """8 NPUs: 5 bytes in 2 chunks become 2 of 8 bytes."""
    slow, fast = reduce_ns(SLOW, 8), reduce_ns(FAST, 8)
    assert time_of((SLOW, FAST), 5, preferred_dataset_splits=2) == 2 * slow + fast


@pytest.mark.parametrize(("active", "rounds"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_active_chunks_run_side_by_side_in_a_dimension(active, rounds):
    """With as many chunks in every round they stay together: rounds of 3 and 1 for 3 of 4."""
    expected = rounds * reduce_ns(SLOW, MIB // 4)
    assert time_of((SLOW,), preferred_dataset_splits=4, active_chunks_per_dimension=active) == expected


# Queues


@pytest.mark.parametrize(
    ("queues", "active", "rounds"),
    [(1, 1, 8), (2, 1, 4), (2, 2, 4), (2, 3, 2), (4, 1, 2), (4, 8, 1), (8, 1, 1)],
)
def test_every_queue_runs_its_share_of_the_active_chunks(queues, active, rounds):
    """8 chunks go round q queues of ceil(active / q) places."""
    expected = rounds * reduce_ns(SLOW, MIB // 8)
    system = {"preferred_dataset_splits": 8, "active_chunks_per_dimension": active}
    assert time_of((SLOW,), queues=queues, **system) == expected


@pytest.mark.parametrize(
    ("queues", "destinations"), [(1, [1, 1, 1, 1]), (2, [1, 3, 1, 3]), (3, [1, 3, 3, 1]), (4, [1, 1, 3, 3])]
)
def test_the_upper_half_of_the_queues_runs_anticlockwise(queues, destinations):
    """Index >= q // 2, but with a single queue clockwise."""
    system = {"preferred_dataset_splits": 4, "active_chunks_per_dimension": 4 * queues}
    assert first_messages((SLOW,), 4, queues, **system) == destinations


def test_queues_go_on_where_the_last_collective_ended():
    """q = 2, one chunk each: the second collective takes queue 1, anticlockwise."""
    target = mesh(SLOW, queues=2, all_gather=("ring",))
    target.record()
    gather = CollectiveKind.ALL_GATHER
    run(target, [[collective(0, gather), collective(1, gather)]] * 4, sizes=[MIB])
    sent = [span.destination for span in target.link_spans() if span.source == 0]
    assert sent == [1, 1, 1, 3, 3, 3]


@pytest.mark.parametrize(("queues", "rounds"), [(1, 8), (2, 8), (4, 4), (6, 3)])
def test_local_bandwidth_aware_reduces_in_the_lower_half_only(queues, rounds):
    """In one dimension there is no other phase: 8 chunks go round max(1, q // 2) queues."""
    expected = rounds * reduce_ns(SLOW, MIB // 8)
    system = {"preferred_dataset_splits": 8, "collective_optimization": "localBWAware"}
    assert time_of((SLOW,), queues=queues, **system) == expected


@pytest.mark.parametrize("queues", [1, 2, 3])
def test_local_bandwidth_aware_scatters_clockwise_and_gathers_anticlockwise(queues):
    """NPU 0 of a 4 x 2: to 1, thrice; dimension 1: to 4, twice; back: to 3, thrice."""
    got = first_messages((SLOW, FAST), 99, queues, collective_optimization="localBWAware")
    assert got == [1, 1, 1, 4, 4, 3, 3, 3]


def test_with_one_queue_a_gather_waits_for_the_next_scatter():
    """Two chunks: scatter a, reduce b < a, gather c with b < c < a in dimension 0, 1, 0.

    The first chunk is back at a + b, when the second still scatters; the gathers follow from 2a on.
    """
    a, b, c = scatter_ns(SLOW, MIB // 2), reduce_ns(FAST, MIB // 8), gather_ns(SLOW, MIB // 8)
    assert b < c < a
    system = {"preferred_dataset_splits": 2, "collective_optimization": "localBWAware"}
    assert time_of((SLOW, FAST), **system) == 2 * a + 2 * c


def test_with_two_queues_a_gather_passes_the_next_scatter():
    """The upper queue is free at a + b, so only the second chunk's way is left: 2a + b + c."""
    a, b, c = scatter_ns(SLOW, MIB // 2), reduce_ns(FAST, MIB // 8), gather_ns(SLOW, MIB // 8)
    system = {"preferred_dataset_splits": 2, "collective_optimization": "localBWAware"}
    assert time_of((SLOW, FAST), queues=2, **system) == 2 * a + b + c

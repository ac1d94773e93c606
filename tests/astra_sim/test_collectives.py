"""Ring collectives against their closed forms on the congestion-unaware network."""

from __future__ import annotations

import pytest
from astra_sim_builders import (
    MIB,
    STEP,
    all_reduce,
    collective,
    drain,
    engine,
    message_ns,
    numbers,
    reduction_ns,
    run,
)

from astra_sim import CollectiveKind, Engine, Graph, NetworkConfig, SystemConfig


@pytest.mark.parametrize("n", [2, 3, 4, 8])
@pytest.mark.parametrize(("wiring", "hops"), [("Ring", 1), ("FullyConnected", 1), ("Switch", 2)])
def test_ring_all_reduce_takes_2n_minus_2_steps_and_n_minus_1_reductions(n, wiring, hops):
    message = MIB // n
    step = message_ns(message, hops) + STEP
    expected = STEP + 2 * (n - 1) * step + (n - 1) * reduction_ns(message)
    assert run(engine(n, wiring), [[all_reduce(0)]] * n, sizes=[MIB]) == expected


def test_all_gather_moves_whole_shards_and_reduces_nothing():
    expected = STEP + 3 * (message_ns(MIB, 2) + STEP)
    nodes = [collective(0, CollectiveKind.ALL_GATHER)]
    assert run(engine(4), [nodes] * 4, sizes=[MIB]) == expected


def test_reduce_scatter_reduces_in_every_step():
    expected = STEP + 3 * (message_ns(MIB // 4, 2) + STEP + reduction_ns(MIB // 4))
    nodes = [collective(0, CollectiveKind.REDUCE_SCATTER)]
    assert run(engine(4), [nodes] * 4, sizes=[MIB]) == expected


def test_ring_all_to_all_relays_n_times_n_minus_1_over_2_messages():
    expected = STEP + 6 * (message_ns(MIB // 4, 2) + STEP)
    nodes = [collective(0, CollectiveKind.ALL_TO_ALL)]
    assert run(engine(4), [nodes] * 4, sizes=[MIB]) == expected


def test_a_remainder_of_the_splits_becomes_one_more_full_chunk():
    whole = run(engine(4, preferred_dataset_splits=4), [[all_reduce(0)]] * 4, sizes=[1_000_000])
    rest = run(engine(4, preferred_dataset_splits=4), [[all_reduce(0)]] * 4, sizes=[1_000_003])
    assert rest == whole // 4 * 5


def test_active_chunks_run_side_by_side():
    one = run(engine(4), [[all_reduce(0)]] * 4, sizes=[MIB // 4])
    both = engine(4, preferred_dataset_splits=4, active_chunks_per_dimension=4)
    assert run(both, [[all_reduce(0)]] * 4, sizes=[MIB]) == one


def test_collectives_of_one_npu_never_overlap():
    one = run(engine(4), [[all_reduce(0)]] * 4, sizes=[MIB])
    assert run(engine(4), [[all_reduce(0), all_reduce(1)]] * 4, sizes=[MIB]) == 2 * one


def test_a_collective_waits_for_its_last_member():
    alone = run(engine(2), [[all_reduce(0)]] * 2, sizes=[MIB])
    late = engine(2)
    template = late.compile([Graph((all_reduce(0),))] * 2)
    halves = late.compile([Graph((all_reduce(0, group=(0, 1)),))] * 2)
    assert late.submit(template, [0, 1], numbers(), numbers(MIB), 5000) == 0
    assert late.submit(halves, [0, 1], numbers(), numbers(MIB), 5000) == 1
    assert [done.finish_ns for done in drain(late)] == [5000 + alone, 5000 + 2 * alone]


def test_a_group_smaller_than_the_system_steps_in_10_ns_whatever_the_endpoint_delay():
    group = [[all_reduce(0, group=(0, 2))], [], [all_reduce(0, group=(0, 2))], []]
    message = MIB // 2
    expected = 10 + 2 * (message_ns(message, 2) + 10) + reduction_ns(message)
    assert run(engine(4, endpoint_delay_ns=5000), group, sizes=[MIB]) == expected


def test_the_listed_order_of_a_group_is_its_ring_order():
    near = [[all_reduce(0, group=(0, 1, 2, 3))] if npu < 4 else [] for npu in range(8)]
    far = [[all_reduce(0, group=(0, 2, 1, 3))] if npu < 4 else [] for npu in range(8)]
    assert run(engine(8, "Ring"), near, sizes=[MIB]) < run(engine(8, "Ring"), far, sizes=[MIB])


def test_two_groups_do_not_disturb_each_other():
    def halves(*npus: int) -> list[list[object]]:
        return [
            [all_reduce(0, group=((0, 1) if npu < 2 else (2, 3)))] if npu in npus else [] for npu in range(4)
        ]

    assert run(engine(4), halves(0, 1, 2, 3), sizes=[MIB]) == run(engine(4), halves(0, 1), sizes=[MIB])


def test_local_bandwidth_aware_all_reduce_shrinks_the_data_before_the_last_dimension():
    network = NetworkConfig(
        topology=("Ring", "Switch"), npus_count=(2, 2), bandwidth_gbps=(50, 50), latency_ns=(500, 500)
    )
    system = SystemConfig(
        local_mem_bw_gbps=1600, all_reduce=("ring", "ring"), collective_optimization="localBWAware"
    )
    half, quarter = MIB // 2, MIB // 4
    scatter = 2 * STEP + message_ns(half) + reduction_ns(half)
    reduce = STEP + 2 * (message_ns(quarter, 2) + STEP) + reduction_ns(quarter)
    gather = 2 * STEP + message_ns(half)
    assert run(Engine(network, system), [[all_reduce(0)]] * 4, sizes=[MIB]) == scatter + reduce + gather


def test_involved_dims_leave_out_a_dimension():
    network = NetworkConfig(
        topology=("Ring", "Ring"), npus_count=(2, 4), bandwidth_gbps=(50, 50), latency_ns=(500, 500)
    )
    system = SystemConfig(local_mem_bw_gbps=1600, all_reduce=("ring", "ring"))
    nodes = [all_reduce(0, involved_dims=(False, True))]
    assert run(Engine(network, system), [nodes] * 8, sizes=[MIB]) == run(
        engine(4, "Ring"), [[all_reduce(0)]] * 4, sizes=[MIB]
    )


def test_bytes_of_a_ring_all_reduce_are_2n_minus_2_messages_per_npu():
    target = engine(4)
    run(target, [[all_reduce(0)]] * 4, sizes=[MIB])
    assert target.collective_bytes == 4 * 6 * MIB // 4
    assert target.p2p_bytes == 0

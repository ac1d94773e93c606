"""Every nanosecond of every TTFT has a cause, and the causes are the right ones."""

from __future__ import annotations

import pytest
from clusters import LinearLatency, instance, make_cluster, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.output import RunResult, collect
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation
from inference_serving.wait_ledger import NOBODY, Cause, WaitLedger

POLICIES = ["fcfs", "priority", "srpt", "bounded-overtake", "arrival-order"]
COLOCATED = [(1, None)]
SPLIT = [(2, "prefill"), (1, "decode")]


def run(folder, workload, kinds, *, kv_tokens=4096, **scheduler) -> RunResult:
    sections = [instance(folder, *kind, kv_tokens=kv_tokens, **scheduler) for kind in kinds]
    cluster = make_cluster(folder, sections)
    config = SimulationConfig(long_prompt_tokens=500)
    latencies = {spec.instance_id: LinearLatency() for spec in cluster.instances}
    observers = []
    simulation = Simulation(cluster, workload, config, latencies, observers)
    ledger = WaitLedger(simulation.instances)
    observers.append(ledger)
    simulation.run()
    return collect(cluster, simulation, ledger.accounts)


def arrivals(gaps: list[int], lengths: list[tuple[int, int]]) -> list[RequestSpec]:
    times = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    return [
        RequestSpec(number, at_ns, *lengths[number], priority=-lengths[number][0])
        for number, at_ns in enumerate(times)
    ]


@settings(max_examples=60)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from([COLOCATED, SPLIT]),
    st.sampled_from([1400, 4096]),
    st.booleans(),
    st.lists(
        st.tuples(st.integers(0, 60_000), st.tuples(st.integers(1, 1000), st.integers(1, 30))),
        min_size=1,
        max_size=12,
    ),
)
def test_the_parts_add_up_to_the_ttft_of_every_request(
    tmp_path_factory, policy, kinds, kv_tokens, ahead, workload
):
    folder = tmp_path_factory.mktemp("ledger")
    specs = arrivals([gap for gap, _ in workload], [lengths for _, lengths in workload])
    ahead = ahead and kinds is COLOCATED and policy in ("fcfs", "priority")
    limits = {"max_num_batched_tokens": 128, "scheduling_policy": policy, "async_scheduling": ahead}
    result = run(folder, specs, kinds, kv_tokens=kv_tokens, **limits)
    assert len(result.metrics) == len(specs)
    for one in result.metrics:
        account = result.accounts[one.request.request_id]
        assert sum(account.values()) == one.ttft_ns
        assert min(account.values()) > 0
        assert not any(cause is Cause.IDLE for cause, _ in account)


def test_a_request_alone_only_computes(tmp_path):
    result = run(tmp_path, requests((300, 5)), COLOCATED, max_num_batched_tokens=100)
    assert result.accounts[0] == {(Cause.COMPUTE, NOBODY): result.metrics[0].ttft_ns}


def test_a_short_prompt_behind_a_long_one_was_blocked_by_it(tmp_path):
    workload = arrivals([0, 1000], [(600, 1), (10, 1)])
    result = run(tmp_path, workload, COLOCATED, max_num_batched_tokens=100)
    account = result.accounts[1]
    first, last = result.metrics[0].ttft_ns, result.metrics[1].ttft_ns
    assert account[Cause.BLOCKED, 0] == first - 1000
    assert account == {
        (Cause.BLOCKED, 0): first - 1000,
        (Cause.COMPUTE, NOBODY): last - account[Cause.BLOCKED, 0],
    }


def test_who_runs_beside_another_shares_the_iteration(tmp_path):
    result = run(tmp_path, arrivals([0, 0], [(40, 1), (10, 1)]), COLOCATED)
    one, two = result.accounts[0], result.accounts[1]
    assert set(one) == {(Cause.COMPUTE, NOBODY), (Cause.SHARED, 1)}
    assert set(two) == {(Cause.COMPUTE, NOBODY), (Cause.SHARED, 0)}
    assert one[Cause.COMPUTE, NOBODY] > two[Cause.COMPUTE, NOBODY]


def test_who_finds_no_blocks_waits_for_memory(tmp_path):
    """Two prompts of 40 blocks in a pool of about 62: the second waits until the first is done decoding."""
    result = run(tmp_path, arrivals([0, 0], [(640, 20), (640, 2)]), COLOCATED, kv_tokens=1000)
    assert result.accounts[1][Cause.KV, NOBODY] == pytest.approx(result.metrics[0].latency_ns, rel=0.2)


def test_who_finds_no_room_at_the_decode_side_waits_for_that(tmp_path):
    workload = arrivals([0, 0], [(640, 20), (640, 2)])
    kinds = [(1, "prefill"), (1, "decode")]
    folder = tmp_path
    cluster = make_cluster(folder, [instance(folder, *kinds[0]), instance(folder, *kinds[1], kv_tokens=1000)])
    observers = []
    latencies = {spec.instance_id: LinearLatency() for spec in cluster.instances}
    simulation = Simulation(cluster, workload, SimulationConfig(), latencies, observers)
    ledger = WaitLedger(simulation.instances)
    observers.append(ledger)
    simulation.run()
    assert max(ledger.accounts[1], key=ledger.accounts[1].__getitem__) == (Cause.DECODE, NOBODY)

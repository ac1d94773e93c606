"""Sessions and closed-loop clients in whole simulations: when turns arrive, and what holds in every run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_runs import growing, session, simulation_of

from inference_serving.request import Request
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation, SimulationStallError


def finished(simulation: Simulation) -> list[Request]:
    simulation.run()
    return sorted(simulation.finished, key=lambda request: request.request_id)


# --- when turns arrive


def test_a_turn_arrives_when_the_one_before_has_ended_and_its_tool_has_run(tmp_path):
    workload = session(0, "a", 1_000, [(20, 3, 5_000_000), (40, 2, 0), (50, 1, 0)])
    first, second, third = finished(simulation_of(tmp_path, workload))
    assert first.arrival_ns == 1_000
    assert second.arrival_ns == first.end_ns + 5_000_000
    assert third.arrival_ns == second.end_ns
    assert first.first_scheduled_ns == 1_000
    assert second.first_scheduled_ns == second.arrival_ns


def test_a_turn_that_ends_at_its_prefill_instance_starts_the_next_one(tmp_path):
    workload = session(0, "a", 0, [(20, 1, 70), (40, 3, 80), (60, 2, 0)])
    first, second, third = finished(simulation_of(tmp_path, workload, [(1, "prefill"), (1, "decode")]))
    assert (second.arrival_ns, third.arrival_ns) == (first.end_ns + 70, second.end_ns + 80)
    assert [request.instance_id for request in (first, second, third)] == [0, 1, 1]


def test_the_next_turn_finds_the_prompt_and_the_answer_of_the_one_before(tmp_path):
    workload = growing(session(0, "a", 0, [(33, 16, 0), (64, 2, 0)]))
    simulation = simulation_of(tmp_path, workload, block_size=16, enable_prefix_caching=True)
    _, second = finished(simulation)
    assert second.prefix_hit_tokens == 48  # 48 of 33 + 16 - 1 tokens with KV


# --- closed-loop clients


def test_with_a_limit_of_one_requests_run_one_after_the_other_and_arrive_when_they_are_sent(tmp_path):
    workload = [*session(0, "a", 0, [(20, 4, 0)]), *session(1, "b", 10, [(20, 4, 0)])]
    first, second = finished(simulation_of(tmp_path, workload, config=SimulationConfig(max_concurrency=1)))
    assert (second.arrival_ns, second.client_wait_ns) == (first.end_ns, first.end_ns - 10)
    assert second.first_scheduled_ns == second.arrival_ns


def test_who_was_due_first_is_sent_first_and_a_tool_holds_no_place(tmp_path):
    slow_tool = session(0, "a", 0, [(20, 4, 10**9), (20, 1, 0)])
    workload = [*slow_tool, *session(2, "b", 1, [(20, 4, 0)]), *session(3, "c", 2, [(20, 4, 0)])]
    one, turn, two, three = finished(
        simulation_of(tmp_path, workload, config=SimulationConfig(max_concurrency=1))
    )
    assert (two.arrival_ns, three.arrival_ns) == (one.end_ns, two.end_ns)
    assert (turn.arrival_ns, turn.client_wait_ns) == (one.end_ns + 10**9, 0)


def test_a_limit_that_is_never_reached_changes_nothing(tmp_path):
    workload = session(0, "a", 0, [(20, 4, 9), (30, 2, 0)]) + session(2, "b", 5, [(10, 9, 3), (40, 2, 0)])
    free, limited = (
        finished(simulation_of(tmp_path, workload, config=SimulationConfig(max_concurrency=limit)))
        for limit in (0, 2)
    )
    assert [(one.arrival_ns, one.end_ns) for one in free] == [(one.arrival_ns, one.end_ns) for one in limited]


# --- stalls and interruptions


def test_a_stall_names_the_turn_that_its_session_waits_for(tmp_path):
    workload = session(0, "a", 0, [(20, 2, 0), (900, 2, 0), (20, 1, 0)])
    simulation = simulation_of(tmp_path, workload, kv_tokens=100)
    with pytest.raises(SimulationStallError) as caught:
        simulation.run()
    assert str(caught.value).startswith("2 of 3 requests can never finish; at ")
    assert "sessions wait for the end of turn 1 of session a (request 1, waiting at instance 0)" in str(
        caught.value
    )


def test_a_stall_counts_who_waits_at_a_client(tmp_path):
    workload = session(0, "a", 0, [(900, 2, 0)]) + session(1, "b", 0, [(20, 1, 0)])
    simulation = simulation_of(tmp_path, workload, kv_tokens=100, config=SimulationConfig(max_concurrency=1))
    with pytest.raises(
        SimulationStallError, match="1 requests wait at their clients until one of 1 under way"
    ):
        simulation.run()


def test_a_stall_names_five_sessions_and_counts_the_others(tmp_path):
    workload = [
        spec
        for number in range(7)
        for spec in session(2 * number, f"s{number}", 0, [(900, 2, 0), (20, 1, 0)])
    ]
    simulation = simulation_of(tmp_path, workload, kv_tokens=100)
    with pytest.raises(
        SimulationStallError, match=r"session s4 \(request 8, waiting at instance 0\) and 2 more"
    ):
        simulation.run()


def test_a_run_that_is_stopped_between_turns_is_interrupted(tmp_path):
    simulation = simulation_of(tmp_path, session(0, "a", 0, [(20, 2, 100), (20, 2, 0)]))

    class StopAtFirst:
        def on_submit(self, instance, trace, ticket):
            pass

        def on_iteration(self, now_ns, instance, batch, outcome):
            if outcome.finished:
                simulation.stop()

    simulation._observers = [StopAtFirst()]
    simulation.run()
    assert (len(simulation.finished), simulation.interrupted) == (1, True)


# --- what holds in every run

turns = st.tuples(st.integers(1, 90), st.integers(1, 12), st.sampled_from([0, 1, 30_000, 2_000_000]))
sessions = st.lists(
    st.tuples(st.integers(0, 200_000), st.lists(turns, min_size=1, max_size=5)), min_size=1, max_size=6
)
clusters = st.sampled_from([((1, None),), ((1, None), (1, None)), ((1, "prefill"), (2, "decode"))])


def specs_of(workload, grow: bool = False):
    at_ns, specs = 0, []
    for number, (gap_ns, given_turns) in enumerate(workload):
        at_ns += gap_ns
        one = session(len(specs), f"s{number}", at_ns, given_turns)
        specs += growing(one) if grow else one
    return specs


def check_order(simulation: Simulation, specs) -> None:
    requests = sorted(simulation.finished, key=lambda request: request.request_id)
    assert [request.request_id for request in requests] == [spec.request_id for spec in specs]  # once each
    for request, spec in zip(requests, specs, strict=True):
        due_ns = request.arrival_ns - request.client_wait_ns
        if spec.session.turn == 0:
            assert due_ns == spec.arrival_ns
        else:
            assert due_ns == requests[request.request_id - 1].end_ns + spec.session.tool_ns
        assert request.client_wait_ns >= 0
        assert request.generated == spec.output_tokens
        assert request.arrival_ns <= request.first_scheduled_ns < request.end_ns


def most_under_way(requests) -> int:
    """Ends count before arrivals of the same time."""
    events = sorted([(r.arrival_ns, 1) for r in requests] + [(r.end_ns, -1) for r in requests])
    level = most = 0
    for _, step in sorted(events):
        level += step
        most = max(most, level)
    return most


@settings(max_examples=60)
@given(sessions, clusters, st.sampled_from([0, 1, 2]), st.booleans(), st.sampled_from(["LOAD", "PREFIX"]))
def test_every_turn_runs_once_in_order_and_never_before_its_tool_has(
    tmp_path_factory, workload, kinds, limit, caching, router
):
    specs = specs_of(workload, grow=caching)
    config = SimulationConfig(max_concurrency=limit, request_routing_policy=router)
    limits = {"max_num_batched_tokens": 64, "block_size": 4, "kv_tokens": 160}
    folder = tmp_path_factory.mktemp("sessions")
    simulation = simulation_of(folder, specs, kinds, config, enable_prefix_caching=caching, **limits)
    simulation.run()
    check_order(simulation, specs)
    assert not limit or most_under_way(simulation.finished) <= limit
    for one in simulation.instances.values():
        assert one.kv_cache.used_blocks == 0  # INV-2
        assert one.unfinished_requests == 0


@settings(max_examples=15)
@given(sessions, clusters, st.sampled_from([0, 2]))
def test_two_runs_are_the_same_to_the_nanosecond(tmp_path_factory, workload, kinds, limit):
    config = SimulationConfig(
        max_concurrency=limit, request_routing_policy="RAND", router_args=(("sticky", "true"),)
    )
    folder = tmp_path_factory.mktemp("sessions")
    first, second = (finished(simulation_of(folder, specs_of(workload), kinds, config)) for _ in range(2))
    assert [(r.instance_id, r.arrival_ns, r.end_ns) for r in first] == [
        (r.instance_id, r.arrival_ns, r.end_ns) for r in second
    ]


@settings(max_examples=25)
@given(sessions)
def test_a_session_of_one_turn_is_a_request(tmp_path_factory, workload):
    specs = specs_of([(gap_ns, given_turns[:1]) for gap_ns, given_turns in workload])
    plain = [
        type(spec)(spec.request_id, spec.arrival_ns, spec.input_tokens, spec.output_tokens) for spec in specs
    ]
    folder = tmp_path_factory.mktemp("sessions")
    one, other = (finished(simulation_of(folder, given_specs)) for given_specs in (specs, plain))
    assert [(r.arrival_ns, r.end_ns) for r in one] == [(r.arrival_ns, r.end_ns) for r in other]

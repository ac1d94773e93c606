"""Specification of scheduling policies: who goes first, who gives way, and how to add one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from clusters import instance, make_cluster, requests, simulate
from scheduler_builders import Bench

from inference_serving.flags import make_parser
from inference_serving.policies import make_policy, policy_names, register_policy
from inference_serving.policies.base import POLICIES
from inference_serving.request import Request
from inference_serving.settings import SchedulerSettings, SimulationConfig


def request(priority: int = 0, arrival_ns: int = 0, order: int = 0) -> Request:
    return Request(
        0,
        arrival_ns=arrival_ns,
        prompt_tokens=1,
        output_tokens=1,
        priority=priority,
        enqueue_order=order,
    )


class ShortestPrompt:
    """Admit the shortest prompt first; preempt the request that was admitted last."""

    def waiting_key(self, request: Request) -> tuple[int, ...]:
        return (request.prompt_tokens, request.enqueue_order)

    def victim(self, running: Sequence[Request]) -> int:
        return len(running) - 1


class LongestGivesWay(ShortestPrompt):
    """The same, but the longest prompt is preempted."""

    def victim(self, running: Sequence[Request]) -> int:
        return max(range(len(running)), key=lambda row: running[row].prompt_tokens)


@pytest.fixture
def registry(monkeypatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(POLICIES, "_classes", dict(POLICIES._classes))


# --- first come, first served


def test_fcfs_goes_by_the_order_in_which_requests_reached_the_instance():
    fcfs = make_policy("fcfs")
    early, late = request(priority=9, arrival_ns=99, order=1), request(priority=0, arrival_ns=0, order=2)
    assert fcfs.waiting_key(early) < fcfs.waiting_key(late)


def test_fcfs_preempts_who_was_admitted_last():
    running = [request(order=1), request(order=3), request(order=2)]
    assert make_policy("fcfs").victim(running) == 2


# --- priority


in_this_order = pytest.mark.parametrize(
    ("first", "second"),
    [
        (request(priority=1, arrival_ns=50, order=9), request(priority=2, arrival_ns=10, order=1)),
        (request(priority=-1), request(priority=0)),
        (request(arrival_ns=10, order=9), request(arrival_ns=50, order=1)),
        (request(order=1), request(order=2)),
    ],
    ids=["smaller number", "negative number", "earlier arrival", "earlier in the queue"],
)


@in_this_order
def test_priority_admits_first_the_one_with(first, second):
    priority = make_policy("priority")
    assert priority.waiting_key(first) < priority.waiting_key(second)


@in_this_order
def test_priority_does_not_preempt_the_one_with(first, second):
    priority = make_policy("priority")
    assert priority.victim([first, second]) == 1
    assert priority.victim([second, first]) == 0


# --- the registry


def test_the_policies_that_there_are():
    assert policy_names() == ["fcfs", "priority"]


def test_an_unknown_policy_is_a_key_error():
    with pytest.raises(KeyError, match="lifo"):
        make_policy("lifo")


def test_every_instance_gets_a_policy_of_its_own():
    assert make_policy("fcfs") is not make_policy("fcfs")


def test_a_registered_policy_has_a_name(registry):
    assert register_policy("shortest-prompt")(ShortestPrompt) is ShortestPrompt
    assert policy_names() == ["fcfs", "priority", "shortest-prompt"]


def test_the_command_line_takes_a_registered_policy(registry):
    register_policy("shortest-prompt")(ShortestPrompt)
    args = make_parser().parse_args(["--scheduling-policy", "shortest-prompt"])
    assert args.scheduling_policy == "shortest-prompt"


def test_a_registered_policy_orders_admission(registry):
    register_policy("shortest-prompt")(ShortestPrompt)
    bench = Bench(max_num_seqs=1, scheduling_policy="shortest-prompt")
    bench.add("long", prompt=9, output=1)
    bench.add("short", prompt=2, output=1)
    assert bench.run() == [[("short", 2, 0)], [("long", 9, 0)]]


def test_a_registered_policy_picks_who_gives_way(registry):
    register_policy("longest-gives-way")(LongestGivesWay)
    bench = Bench(kv_blocks=5, scheduling_policy="longest-gives-way")
    bench.add("long", prompt=8)
    bench.step()
    bench.add("short", prompt=7)
    bench.step()
    assert bench.steps(2) == [[("long", 1, 9), ("short", 1, 7)], [("short", 1, 8)]]


def test_a_single_instance_of_a_cluster_can_have_a_registered_policy(registry, tmp_path):
    register_policy("shortest-prompt")(ShortestPrompt)
    config = SimulationConfig(scheduler=SchedulerSettings(max_num_seqs=1))
    section = instance(tmp_path, scheduling_policy="shortest-prompt")
    simulation = simulate(
        make_cluster(tmp_path, [section], config), requests((90, 1), (50, 1), (10, 1)), config
    )
    assert [one.request_id for one in simulation.finished] == [2, 1, 0]

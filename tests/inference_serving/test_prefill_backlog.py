"""Specification of an instance's prefill backlog: the same work left, whichever scheduler holds it."""

from __future__ import annotations

from typing import Any

import pytest
from clusters import instance, make_cluster, requests, simulate

from inference_serving.hol_scheduler import ActivationBlocks, HolScheduler
from inference_serving.instance import Instance
from inference_serving.kv_cache import KvCache
from inference_serving.policies import make_prefill_policy
from inference_serving.prefix_cache import PrefixKvCache
from inference_serving.request import Request
from inference_serving.routers.prefill_backlog import PrefillBacklog
from inference_serving.scheduler import Scheduler
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation

LONG, SHORT = (250, 250), (30, 30)


class CountingCosts:
    """A token takes a nanosecond; counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def batch_ns(self, chunks):
        self.asked += 1
        return sum(tokens for tokens, _ in chunks)

    def group_ns(self, tokens, context, group, groups):
        raise AssertionError("no layer groups here")


class Holder:
    """A scheduler of either kind under a token budget of 100, with its backlog."""

    def __init__(self, kind: str, pool: KvCache | None = None) -> None:
        settings = SchedulerSettings(max_num_batched_tokens=100, reserve_full_isl=False)
        self.costs = CountingCosts()
        self.kv_cache = pool or KvCache(1000, settings.block_size)
        self.scheduler = Scheduler(settings, self.kv_cache)
        if kind == "policy":
            policy = make_prefill_policy("arrival-order", {}, self.costs, settings.longest_chunk)
            self.scheduler = HolScheduler(settings, self.kv_cache, policy, activations=ActivationBlocks(0, 1))
        self.backlog = PrefillBacklog(self.scheduler, self.costs)
        self.batch = None
        self.now_ns = 0
        self.requests = 0

    def add(self, tokens: int, **fields: Any) -> Request:
        request = Request(self.requests, self.now_ns, prompt_tokens=tokens, output_tokens=10, **fields)
        self.requests += 1
        self.scheduler.enqueue(request)
        return request

    def start(self) -> None:
        self.batch = self.scheduler.schedule(self.now_ns)

    def finish(self) -> None:
        self.now_ns += 100
        self.scheduler.complete(self.now_ns)
        self.batch = None

    @property
    def queue(self) -> list[tuple[int, int]]:
        return sorted(map(tuple, self.backlog.queue(self.batch)))


@pytest.fixture(params=["engine", "policy"])
def holder(request) -> Holder:
    return Holder(request.param)


def test_waiting_prompts_have_all_their_time_left(holder):
    holder.add(250)
    holder.add(30)
    assert holder.queue == [SHORT, LONG]


def test_what_the_running_iteration_computes_is_not_left(holder):
    holder.add(250)
    holder.start()
    holder.add(30)
    assert holder.queue == [SHORT, (250, 150)]
    assert holder.backlog.iteration_ns(holder.batch) == 100


def test_between_two_iterations_nothing_is_taken_off_twice(holder):
    holder.add(250)
    holder.start()
    holder.finish()
    assert holder.queue == [(250, 150)]


def test_a_prompt_that_the_running_iteration_completes_is_not_left(holder):
    holder.add(30)
    holder.add(250)
    holder.start()
    assert holder.queue == [(250, 180)]
    assert holder.backlog.iteration_ns(holder.batch) == 100


def test_decodes_are_no_prefill_work(holder):
    holder.add(30)
    holder.start()
    holder.finish()
    assert holder.queue == []
    holder.start()
    assert holder.queue == []
    assert holder.backlog.iteration_ns(holder.batch) == 0


def test_a_preempted_request_has_its_prompt_and_its_output_to_compute_again():
    holder = Holder("engine", KvCache(4, 16))
    holder.add(31)
    holder.add(31)
    for _ in range(3):
        holder.start()
        holder.finish()
    assert holder.scheduler.preemptions == 1
    assert holder.queue == [(33, 33)]  # 31 of the prompt and two generated


def test_a_prediction_is_the_time_of_the_prompt_alone(holder):
    request = Request(7, 0, prompt_tokens=230, output_tokens=1)
    assert holder.backlog.predict_ns(request) == 230


@pytest.mark.parametrize("kind", ["engine", "policy"])
def test_what_is_cached_of_a_prompt_costs_nothing(kind):
    holder = Holder(kind, PrefixKvCache(1000, 16))
    holder.add(64, token_ids=range(70))
    holder.start()
    holder.finish()
    again = Request(7, 0, prompt_tokens=100, output_tokens=1, token_ids=[*range(64), *range(500, 537)])
    assert holder.backlog.predict_ns(again) == 36
    holder.add(200, token_ids=range(1000, 1200))
    holder.add(100, token_ids=again.token_ids)
    holder.start()
    holder.add(100, token_ids=again.token_ids)
    assert holder.queue == [(36, 36), (36, 36), (200, 101)]  # the first request decodes a token


def test_equal_prompts_are_predicted_once(holder):
    for _ in range(5):
        holder.add(250)
    assert len(holder.queue) == 5
    assert holder.costs.asked == 3  # chunks of 100, 100 and 50 tokens


def test_an_engine_scheduler_predicts_nothing_until_it_is_asked():
    holder = Holder("engine")
    holder.add(250)
    holder.start()
    holder.finish()
    assert holder.costs.asked == 0


class Watcher:
    """Looks at the residual when an iteration has been submitted."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_submit(self, instance: Instance, trace, ticket) -> None:
        start_ns = instance.in_flight.start_ns
        self.seen.append([instance.residual_ns(start_ns + later) for later in (0, 1000, 10**12)])

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        assert instance.residual_ns(now_ns) == 0


@pytest.mark.parametrize("scheduling_policy", ["fcfs", "srpt"])
def test_the_residual_of_a_prefill_is_its_whole_time_at_first_and_then_runs_down(tmp_path, scheduling_policy):
    config = SimulationConfig()
    cluster = make_cluster(tmp_path, [instance(tmp_path, scheduling_policy=scheduling_policy)], config)
    watcher = Watcher()
    simulation: Simulation = simulate(cluster, requests((300, 1)), config, observers=[watcher])
    (whole_ns,) = {one.end_ns for one in simulation.finished}
    assert watcher.seen == [[whole_ns, whole_ns - 1000, 0]]

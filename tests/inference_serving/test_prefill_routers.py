"""Specification of the routers that look at prefill work: LWL, SITA and MSC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from clusters import instance, make_cluster, requests, simulate
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.request import Request
from inference_serving.router import LeastLoaded, make_decode_router, make_router
from inference_serving.routers.target import QueuedPrefill, RoutingTarget, work_left_ns
from inference_serving.settings import SimulationConfig

NOW_NS = 1000


@dataclass
class Target:
    """An instance on which a prompt takes ``token_ns`` a token; ``queue`` has (isolated, remaining) pairs."""

    instance_id: int
    queue: Sequence[tuple[int, int]] = ()
    residual: int = 0
    token_ns: int = 1
    unfinished_requests: int = 0
    asked_at: list[int] = field(default_factory=list)

    def predict_ns(self, request: Request) -> int:
        return request.prompt_tokens * self.token_ns

    def prefill_queue(self) -> Sequence[QueuedPrefill]:
        return [QueuedPrefill(*pair) for pair in self.queue]

    def residual_ns(self, now_ns: int) -> int:
        self.asked_at.append(now_ns)
        return self.residual


def targets(*queues: Sequence[tuple[int, int]]) -> list[Target]:
    return [Target(number, queue) for number, queue in enumerate(queues)]


def chosen(name: str, among: Sequence[RoutingTarget], tokens: int = 10, **args: object) -> int:
    router = make_router(
        name, np.random.default_rng(0), {option: str(value) for option, value in args.items()}
    )
    return router.route(Request(0, NOW_NS, prompt_tokens=tokens, output_tokens=1), among)


# --- least work left


def test_work_left_is_the_remaining_time_of_all_prompts_and_of_the_running_iteration():
    assert work_left_ns(Target(0, [(50, 20), (10, 10)], residual=7), NOW_NS) == 37


def test_lwl_takes_the_instance_with_the_least_remaining_time():
    assert chosen("LWL", targets([(100, 60)], [(20, 20), (20, 20)], [(90, 50)])) == 1


def test_lwl_does_not_count_requests():
    assert chosen("LWL", targets([(100, 100)], [(1, 1)] * 9)) == 1


def test_lwl_counts_what_is_left_of_the_running_iteration():
    busy, queued = Target(0, residual=30), Target(1, [(20, 20)])
    assert chosen("LWL", [busy, queued]) == 1
    assert busy.asked_at == [NOW_NS]


def test_lwl_settles_ties_by_the_number_of_the_instance():
    assert chosen("LWL", [Target(7), Target(5), Target(6)]) == 1


def test_lwl_counts_the_request_itself_where_instances_differ_in_speed():
    slow, fast = Target(0, token_ns=5), Target(1, [(30, 30)])
    assert chosen("LWL", [slow, fast], tokens=10) == 1
    assert chosen("LWL", [slow, fast], tokens=7) == 0


# --- size intervals


def test_sita_sends_long_prompts_to_the_last_instances_and_short_ones_to_the_others():
    among = targets([(9, 9)], [], [(5, 5)], [])
    assert chosen("SITA", among, tokens=99, cutoff=100) == 1
    assert chosen("SITA", among, tokens=100, cutoff=100) == 3


def test_sita_keeps_the_pools_apart_whatever_their_load():
    among = targets([(900, 900)], [])
    assert chosen("SITA", among, tokens=1) == 0
    assert chosen("SITA", targets([], [(900, 900)]), tokens=9999) == 1


@pytest.mark.parametrize(
    ("share", "pool"), [(0, {3}), (0.25, {3}), (0.5, {2, 3}), (0.75, {1, 2, 3}), (1, {1, 2, 3})]
)
def test_sita_reserves_a_share_of_the_instances_and_leaves_each_pool_one(share, pool):
    free = [[(1, 1)] * 3 for _ in range(4)]
    places = set()
    for idle in range(4):
        queues = [[] if number == idle else free[number] for number in range(4)]
        places.add(chosen("SITA", targets(*queues), tokens=5000, share=share))
    assert places == pool


def test_sita_with_one_instance_has_no_choice():
    assert chosen("SITA", targets([]), tokens=1) == chosen("SITA", targets([]), tokens=9999) == 0


# --- minimal slowdown cost


def test_msc_lets_a_short_prompt_pass_a_long_one_rather_than_wait_for_its_like():
    # index 10 * 10: behind a short, the slowdown is (10 + 10) / 10; in front of a long it costs it 10 / 1000
    assert chosen("MSC", targets([(10, 10)], [(1000, 1000)])) == 1


def test_msc_waits_for_a_long_prompt_that_is_nearly_done():
    # 1000 * 5 <= 100 * 100, so it is ahead: 1.05 in all, and not behind: 1 + 100 / 1000
    nearly_done, busy = Target(0, [(1000, 5)]), Target(1, residual=8)
    assert chosen("MSC", [nearly_done, busy], tokens=100) == 0


def test_msc_sends_a_long_prompt_where_it_delays_nobody():
    # all shorts go first anyway: 3 x 10 to wait; behind the other long: 500 to wait
    assert chosen("MSC", targets([(1000, 500)], [(10, 10)] * 3), tokens=1000) == 1


def test_msc_settles_equal_costs_by_who_is_done_first():
    slow, fast = Target(0, token_ns=5), Target(1)
    assert chosen("MSC", [slow, fast]) == 1


def test_the_guard_of_msc_keeps_prompts_of_a_size_from_gathering():
    # waiting behind three longs that are nearly done is cheap, but they are three against none
    among = targets([(1000, 10)] * 3, [(200, 200)] * 5)
    assert chosen("MSC", among, tokens=1000, guard=3) == 0
    assert chosen("MSC", among, tokens=1000, guard=2) == 1


def brute_force(target: Target, tokens: int) -> float:
    """The formula of the router's docstring, term by term."""
    own = tokens * target.token_ns
    ahead = [rem for iso, rem in target.queue if iso * rem <= own * own]
    behind = [iso for iso, rem in target.queue if iso * rem > own * own]
    return (target.residual + sum(ahead) + own) / own + own * sum(1 / iso for iso in behind)


jobs = st.integers(1, 500).flatmap(lambda isolated: st.tuples(st.just(isolated), st.integers(0, isolated)))
instances = st.builds(
    Target,
    instance_id=st.just(0),
    queue=st.lists(jobs, max_size=6),
    residual=st.integers(0, 100),
    token_ns=st.integers(1, 3),
)


@given(st.lists(instances, min_size=1, max_size=4), st.integers(1, 500))
def test_msc_is_the_least_of_the_formula(among, tokens):
    choice = chosen("MSC", among, tokens=tokens, guard=10**9)
    costs = [brute_force(target, tokens) for target in among]
    assert costs[choice] == pytest.approx(min(costs), rel=1e-12)


@given(st.lists(instances, min_size=1, max_size=4), st.integers(1, 500), st.integers(0, 2))
def test_msc_never_goes_beyond_its_guard(among, tokens, guard):
    def alike(target: Target) -> int:
        size = (tokens * target.token_ns).bit_length() // 2
        return sum(isolated.bit_length() // 2 == size for isolated, _ in target.queue)

    choice = chosen("MSC", among, tokens=tokens, guard=guard)
    assert alike(among[choice]) <= min(map(alike, among)) + guard


# --- in a run


@pytest.mark.parametrize("name", ["LWL", "SITA", "MSC"])
def test_decode_instances_are_chosen_by_load(name):
    rng = np.random.default_rng(0)
    assert isinstance(make_decode_router(name, rng), LeastLoaded)


def test_another_router_also_chooses_decode_instances():
    rng = np.random.default_rng(0)
    assert type(make_decode_router("RR", rng)) is type(make_router("RR", rng))


@pytest.mark.parametrize("scheduling_policy", ["fcfs", "srpt"])
@pytest.mark.parametrize("name", ["LWL", "MSC"])
def test_a_short_prompt_is_not_sent_behind_a_long_one(tmp_path, name, scheduling_policy):
    config = SimulationConfig(request_routing_policy=name)
    sections = [instance(tmp_path, scheduling_policy=scheduling_policy) for _ in range(2)]
    workload = requests((3000, 2), (50, 2), (60, 2), (50, 2))
    simulation = simulate(make_cluster(tmp_path, sections, config), workload, config)
    places = {one.request_id: one.instance_id for one in simulation.finished}
    assert places[0] == 0
    assert places[1] == 1


@pytest.mark.parametrize("name", ["LWL", "SITA", "MSC"])
def test_all_requests_of_a_disaggregated_run_finish(tmp_path, name):
    config = SimulationConfig(request_routing_policy=name)
    sections = [instance(tmp_path, pd_type=role) for role in ("prefill", "prefill", "decode", "decode")]
    workload = requests(*[(300, 4), (20, 4)] * 6, gap_ns=2000)
    simulation = simulate(make_cluster(tmp_path, sections, config), workload, config)
    assert len(simulation.finished) == 12
    decoders = {one.decode_instance_id for one in simulation.finished}
    assert decoders == {2, 3}

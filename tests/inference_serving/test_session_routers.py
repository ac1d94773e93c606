"""Specification of routing prompts that come back: PREFIX, and sessions that stick to their instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from session_runs import growing, session, simulation_of

from inference_serving.request import Request
from inference_serving.request_spec import SessionTurn
from inference_serving.router import make_decode_router, make_router
from inference_serving.routers.session import StickySessions
from inference_serving.settings import SimulationConfig


@dataclass
class Target:
    instance_id: int
    unfinished_requests: int
    cached: int

    def cached_tokens(self, request: Request) -> int:
        return self.cached


def chosen(*load_and_cached: tuple[int, int], **options: int) -> int:
    targets = [Target(number, *pair) for number, pair in enumerate(load_and_cached)]
    args = {name: str(value) for name, value in options.items()}
    return make_router("PREFIX", np.random.default_rng(0), args).route(Request(0, 0, 99, 1), targets)


@pytest.mark.parametrize(
    ("load_and_cached", "choice"),
    [
        ([(0, 16), (9, 32), (0, 0)], 1),  # the longest, whatever the load
        ([(3, 32), (2, 32), (0, 16)], 1),  # as long: by load
        ([(3, 0), (2, 0), (2, 0)], 1),  # cold: by load, then the instance's number
    ],
)
def test_prefix_takes_the_longest_cached_prefix_then_the_least_loaded(load_and_cached, choice):
    assert chosen(*load_and_cached, guard=0) == choice


def test_the_guard_leaves_out_instances_with_too_many_requests_more_than_the_least_loaded():
    assert chosen((4, 64), (3, 32), (0, 0), guard=3) == 1
    assert chosen((4, 64), (3, 32), (0, 0), guard=4) == 0


def turn_of(name: str, turn: int, turns: int = 3) -> Request:
    return Request(0, 0, 9, 1, session=SessionTurn(name, turn, turns))


def sticky() -> StickySessions:
    return StickySessions(make_router("RR", np.random.default_rng(0)))


def test_later_turns_go_where_the_first_one_went_and_only_first_turns_are_routed():
    router, targets = sticky(), [Target(0, 0, 0), Target(1, 0, 0)]
    order = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2), ("c", 0)]
    assert [router.route(turn_of(*one), targets) for one in order] == [0, 1, 0, 1, 1, 0, 0]


def test_requests_that_stand_alone_are_routed_as_ever():
    router, targets = sticky(), [Target(0, 0, 0), Target(1, 0, 0)]
    assert [router.route(Request(0, 0, 9, 1), targets) for _ in range(3)] == [0, 1, 0]


def test_a_session_is_forgotten_with_its_last_turn():
    router, targets = sticky(), [Target(0, 0, 0), Target(1, 0, 0)]
    for turn in (0, 1, 2):
        router.route(turn_of("a", turn), targets)
    assert router._place_of == {}


def test_sticky_goes_with_every_router_and_its_options_but_not_with_decode_instances():
    rng = np.random.default_rng(0)
    assert isinstance(make_router("PREFIX", rng, {"guard": "2", "sticky": "true"}), StickySessions)
    assert not isinstance(make_router("RR", rng, {"sticky": "false"}), StickySessions)
    assert not isinstance(make_decode_router("RR", rng, {"sticky": "true"}), StickySessions)
    with pytest.raises(ValueError, match="sticky=maybe: must be true or false"):
        make_router("RR", rng, {"sticky": "maybe"})


@pytest.mark.parametrize(
    ("router", "args"), [("RR", (("sticky", "true"),)), ("PREFIX", ()), ("RAND", (("sticky", "on"),))]
)
def test_in_a_run_sessions_stay_where_their_prefix_is(tmp_path, router, args):
    workload = []
    for number in range(3):
        workload += growing(
            session(len(workload), f"s{number}", number, [(40, 9, 50), (80, 5, 0), (99, 2, 0)])
        )
    config = SimulationConfig(request_routing_policy=router, router_args=args)
    kinds = [(1, None), (1, None)]
    simulation = simulation_of(tmp_path, workload, kinds, config, block_size=8, enable_prefix_caching=True)
    simulation.run()
    served: dict[str, set[int]] = {}
    for request in simulation.finished:
        assert request.session is not None
        served.setdefault(request.session.session_id, set()).add(request.instance_id)
        assert (request.prefix_hit_tokens > 0) == (request.session.turn > 0)
    assert [len(places) for places in served.values()] == [1, 1, 1]

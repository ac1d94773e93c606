"""Specification of routers: which instance serves a request, and how to add one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from clusters import instance, make_cluster, requests, simulate

from inference_serving.flags import make_parser
from inference_serving.registry import UnknownNameError
from inference_serving.request import Request
from inference_serving.router import (
    ROUTERS,
    RoutingTarget,
    make_router,
    register_router,
    router_names,
)
from inference_serving.settings import SimulationConfig

REQUEST = Request(0, arrival_ns=0, prompt_tokens=1, output_tokens=1)


@dataclass
class Target:
    instance_id: int
    unfinished_requests: int = 0


class LongPromptsApart:
    """Prompts of more than 100 tokens go to the second instance."""

    def __init__(self, rng: np.random.Generator) -> None:
        pass

    def route(self, request: Request, among: Sequence[RoutingTarget]) -> int:
        return int(request.prompt_tokens > 100)


def targets(*loads: int) -> list[Target]:
    return [Target(number, load) for number, load in enumerate(loads)]


def chosen(name: str, among: Sequence[RoutingTarget], count: int, seed: int = 0) -> list[int]:
    router = make_router(name, np.random.default_rng(seed))
    return [router.route(REQUEST, among) for _ in range(count)]


# --- round robin


def test_rr_takes_the_instances_in_turn():
    assert chosen("RR", targets(0, 0, 0), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_rr_does_not_look_at_the_load():
    assert chosen("RR", targets(1000, 0), 4) == [0, 1, 0, 1]


def test_two_rr_routers_do_not_share_a_turn():
    first, second = (make_router("RR", np.random.default_rng(0)) for _ in range(2))
    assert [first.route(REQUEST, targets(0, 0)) for _ in range(3)] == [0, 1, 0]
    assert second.route(REQUEST, targets(0, 0)) == 0


# --- random


def test_rand_makes_the_same_choices_for_the_same_seed():
    assert chosen("RAND", targets(0, 0, 0), 50, seed=3) == chosen("RAND", targets(0, 0, 0), 50, seed=3)


def test_rand_makes_other_choices_for_another_seed():
    assert chosen("RAND", targets(0, 0, 0), 50, seed=3) != chosen("RAND", targets(0, 0, 0), 50, seed=4)


def test_rand_gives_every_instance_its_share():
    shares = Counter(chosen("RAND", targets(0, 0, 0, 0), 4000))
    assert sorted(shares) == [0, 1, 2, 3]
    assert all(900 < share < 1100 for share in shares.values())


def test_rand_has_no_other_source_of_chance_than_its_generator():
    np.random.seed(1)  # noqa: NPY002
    first = chosen("RAND", targets(0, 0, 0), 50)
    np.random.seed(2)  # noqa: NPY002
    assert chosen("RAND", targets(0, 0, 0), 50) == first


# --- least loaded


def test_load_takes_the_instance_with_the_fewest_unfinished_requests():
    assert chosen("LOAD", targets(3, 1, 2), 2) == [1, 1]


def test_load_looks_at_the_load_at_every_arrival():
    router, among = make_router("LOAD", np.random.default_rng(0)), targets(1, 0)
    assert router.route(REQUEST, among) == 1
    among[1].unfinished_requests = 2
    assert router.route(REQUEST, among) == 0


def test_load_settles_ties_by_the_number_of_the_instance_and_not_by_its_place():
    among = [Target(7, 4), Target(5, 2), Target(3, 2), Target(4, 2)]
    assert chosen("LOAD", among, 1) == [2]


# --- the registry


@pytest.fixture
def registry(monkeypatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(ROUTERS, "_classes", dict(ROUTERS._classes))


def test_the_routers_that_there_are():
    assert router_names() == ["CUSTOM", "LOAD", "LWL", "MSC", "PREFIX", "RAND", "RR", "SITA"]


def test_an_unknown_router_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="'lwl' is unknown; use one of CUSTOM, LOAD, LWL"):
        make_router("lwl", np.random.default_rng(0))


def test_a_registered_router_has_a_name(registry):
    assert register_router("APART")(LongPromptsApart) is LongPromptsApart
    assert "APART" in router_names()


def test_the_command_line_takes_a_registered_router(registry):
    register_router("APART")(LongPromptsApart)
    args = make_parser().parse_args(["--request-routing-policy", "APART"])
    assert args.request_routing_policy == "APART"


def test_a_registered_router_routes_the_requests_of_a_run(registry, tmp_path):
    register_router("APART")(LongPromptsApart)
    config = SimulationConfig(request_routing_policy="APART")
    cluster = make_cluster(tmp_path, [instance(tmp_path), instance(tmp_path)], config)
    simulation = simulate(cluster, requests((50, 1), (200, 1), (60, 1)), config)
    assert {one.request_id: one.instance_id for one in simulation.finished} == {0: 0, 1: 1, 2: 0}

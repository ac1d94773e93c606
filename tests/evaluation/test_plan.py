"""Sweep files: what they ask for, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from astra_sim.input_error import InputError
from dataset.research_hol_blocking.kinds import KINDS
from evaluation.hol.plan import (
    HERE,
    Point,
    WorkloadSpec,
    episode_points,
    experiment_points,
    read_policies,
    read_sweep,
    training_points,
)
from inference_serving.policies import check_policy
from inference_serving.policies.options import parse_pairs
from inference_serving.router import check_router

TEXT = """
training: {kinds: [long5-32k], load: 0.9, seed: 7, requests: 10, cluster: h100_8b_1p2d, chunks: [512, 2048]}
experiments:
  main:
    workloads: [long5-32k, equal]
    loads: [0.5, "1.1:60"]
    seeds: [1, 2]
    clusters: [h100_8b_1p2d]
    policies: [fcfs-2048, srpt]
"""


@pytest.fixture
def sweep_of(tmp_path):
    def read(text: str):
        file = tmp_path / "sweep.yaml"
        file.write_text(text)
        return read_sweep(file, read_policies())

    return read


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_files_here_name_policies_routers_and_options_that_exist(name):
    policies = read_policies()
    sweep = read_sweep(HERE / f"{name}.yaml", policies)
    for entry in policies.values():
        check_policy(entry.policy, parse_pairs(entry.args))
    for one in sweep.experiments.values():
        for router in one.routers:
            check_router(router, {})
        assert set(one.workloads) <= set(KINDS)


def test_training_seeds_are_used_for_nothing_else():
    for name in ("small", "full"):
        sweep = read_sweep(HERE / f"{name}.yaml", read_policies())
        assert all(sweep.training.seed not in one.seeds for one in sweep.experiments.values())


def test_an_experiment_is_a_product(sweep_of):
    sweep, policies = sweep_of(TEXT), read_policies()
    points = list(experiment_points(sweep.experiments["main"], sweep, policies, {("long5-32k", "srpt"): 512}))
    assert len(points) == len(set(points)) == 2 * 2 * 2 * 2
    assert Counter(point.chunk for point in points) == {2048: 8, 512: 8}
    assert {point.workload.load for point in points} == {"0.5", "1.1:60"}


def test_training_tries_every_chunk_of_a_policy_that_wants_the_best(sweep_of):
    points = list(training_points(sweep_of(TEXT), read_policies()))
    assert [(point.contestant, point.chunk) for point in points] == [("srpt", 512), ("srpt", 2048)]


def test_without_training_a_policy_that_wants_the_best_chunk_is_left_out(sweep_of):
    sweep, policies = sweep_of(TEXT), read_policies()
    points = experiment_points(sweep.experiments["main"], sweep, policies, {})
    assert {point.contestant for point in points} == {"fcfs-2048"}


def test_only_the_episode_is_logged():
    policies = read_policies()
    sweep = read_sweep(HERE / "small.yaml", policies)
    assert all(point.logged for point in episode_points(sweep, policies, {}))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[fcfs-2048, srpt]", "[fcfs-2047]", "'fcfs-2047' is not in policies.yaml"),
        ("clusters: [h100_8b_1p2d]", "clusters: [nowhere]", "there is no config/nowhere.json"),
        ("[long5-32k, equal]", "[long6-32k]", "neither a file nor one of long5-32k"),
        ("requests: 10", "requests: 0", "training.requests"),
        ("seeds:", "sedes:", "sedes"),
        ("experiments:", "experiments: [", "not YAML"),
    ],
)
def test_mistakes_are_named(sweep_of, old, new, said):
    with pytest.raises(InputError, match=r"sweep\.yaml") as error:
        sweep_of(TEXT.replace(old, new, 1))
    assert said in str(error.value)


def test_an_id_changes_with_whatever_the_run_depends_on(tmp_path):
    trace = tmp_path / "own.jsonl"
    trace.write_text("{}\n")
    point = Point(
        WorkloadSpec(str(trace), "own", "own", None, 0), "h100_8b_1p2d", "RR", "srpt", "srpt", "", 2048
    )
    ids = {point.point_id}
    for change in ({"args": "chunk=1"}, {"chunk": 512}, {"router": "LWL"}, {"cluster": "h100_8b_4p4d"}):
        ids.add(replace(point, **change).point_id)
    trace.write_text("{ }\n")
    ids.add(point.point_id)
    assert len(ids) == 6

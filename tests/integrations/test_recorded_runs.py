"""The recorded runs of a real vLLM with the project's policy inside, against the simulator's own scheduler."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from inference_serving.replay import main
from integrations.compare_runs import Compared, Times, compare

FOLDER = Path(__file__).parents[2] / "integrations" / "recorded"
POLICIES, SEEDS = ("fcfs", "prio", "bo"), (1, 2, 3)
RUNS = [f"{policy}-s{seed}" for policy in POLICIES for seed in SEEDS]


def files(name: str) -> list[str]:
    return [str(FOLDER / f"{name}.{kind}.jsonl.gz") for kind in ("iters", "reqs")]


def iterations(name: str) -> list[dict]:
    lines = gzip.decompress((FOLDER / f"{name}.iters.jsonl.gz").read_bytes()).decode().splitlines()
    return [event for event in map(json.loads, lines) if event["ev"] == "it"]


@cache
def compared() -> tuple[Compared, ...]:
    return tuple(compare(FOLDER / f"{name}.reqs.jsonl.gz") for name in RUNS)


def short_ttft(policy: str, way: str) -> np.ndarray:
    """Short prompts of all seeds, in s."""
    return Times.pooled(run.times[way] for run in compared() if run.policy == policy).short


@pytest.mark.parametrize("name", RUNS)
def test_the_simulators_scheduler_decides_every_iteration_as_the_real_engine_did(name, capsys):
    assert main(files(name)) == 0
    total = len(iterations(name))
    assert total > 2000
    assert capsys.readouterr().out == f"equal {total} / {total}\n"


@pytest.mark.parametrize("change", ["--policy-args=chunk=480,tau=0,beta=0.1", "--scheduling-policy=srpt"])
def test_replay_tells_other_policies_apart(change, capsys):
    assert main([*files("bo-s1"), change]) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_half_done_prompts_are_paused_and_go_on_from_where_they_were(seed):
    computed: dict[str, int] = {}
    half_done: set[str] = set()
    pauses = 0
    for iteration in iterations(f"bo-s{seed}"):
        ran = {name for name, *_ in iteration["items"]}
        pauses += len(half_done - ran)
        for name, tokens, before, prompt in iteration["items"]:
            assert before == computed.get(name, 0)
            computed[name] = before + tokens
            (half_done.add if computed[name] < prompt else half_done.discard)(name)
    assert pauses > 10


def test_what_a_prompt_computes_does_not_depend_on_pauses():
    """The first token of a prompt is the same under all policies: its KV came through pauses unharmed."""
    first_tokens = {(run.policy, run.seed): run.first_tokens for run in compared()}
    for seed in SEEDS:
        equal = np.equal(first_tokens["bo", seed], first_tokens["fcfs", seed])
        assert equal.mean() > 0.98  # another batch rounds differently


@pytest.mark.parametrize(("other", "gain"), [("fcfs", 8), ("prio", 4)])
def test_short_prompts_wait_much_less_than_under_the_engines_own_policies(other, gain):
    p99 = {policy: np.percentile(short_ttft(policy, "measured"), 99) for policy in ("bo", other)}
    assert p99[other] > gain * p99["bo"]


@pytest.mark.parametrize("other", ["fcfs", "prio"])
@pytest.mark.parametrize("statistic", [np.mean, lambda short: np.percentile(short, 99)], ids=["mean", "p99"])
def test_the_simulator_predicts_the_gain_within_a_quarter(other, statistic):
    """At the speed that the machine had in each run; without it the mean under FCFS is off by a third."""
    gain = {
        way: statistic(short_ttft("bo", way)) / statistic(short_ttft(other, way))
        for way in ("measured", "at speed")
    }
    assert gain["at speed"] == pytest.approx(gain["measured"], rel=0.25)

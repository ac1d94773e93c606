"""The committed sessions: with each session on one instance, prompts find all that an unlimited cache would have."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from inference_serving.cli import main
from inference_serving.dataset import read_dataset

ROOT = Path(__file__).resolve().parents[2]
DATASET = ROOT / "dataset/agentic_sessions.jsonl"
SESSIONS = 25


def hits_by_request(folder: Path, *flags: str) -> list[int]:
    config = str(ROOT / "cluster_config/single_node_multi_instance.json")
    inputs = ["--cluster-config", config, "--dataset", str(DATASET), "--num-req", str(SESSIONS)]
    output = folder / "run.csv"
    assert (
        main([*inputs, "--enable-prefix-caching", "--log-interval", "1e6", "--output", str(output), *flags])
        == 0
    )
    return [int(row["prefix_hit_tokens"]) for row in csv.DictReader(output.open())]


def all_there_is() -> list[int]:
    """Full blocks of 16 within all tokens of the turn before but the last, which has no KV."""
    specs = read_dataset(DATASET, SESSIONS)
    hits = [0]
    for before, spec in pairwise(specs):
        assert spec.session is not None
        most = min(before.input_tokens + before.output_tokens - 1, spec.input_tokens - 1)
        hits.append(most // 16 * 16 if spec.session.turn else 0)
    return hits


@pytest.mark.parametrize("router", ["RR", "LOAD"])
def test_sticky_sessions_find_exactly_their_history(tmp_path, router):
    flags = ["--request-routing-policy", router, "--router-args", "sticky=true"]
    assert hits_by_request(tmp_path, *flags) == all_there_is()


def test_prefix_routing_finds_it_too_where_the_guard_lets_it(tmp_path):
    flags = ["--request-routing-policy", "PREFIX", "--router-args", "guard=0"]
    assert hits_by_request(tmp_path, *flags) == all_there_is()


def test_sessions_that_are_spread_out_find_less(tmp_path):
    assert sum(hits_by_request(tmp_path, "--request-routing-policy", "RR")) < 0.85 * sum(all_there_is())

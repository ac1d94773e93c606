"""The iteration log: one line an iteration, whose times add up to the instance's busy time."""

from __future__ import annotations

import csv
import json
from itertools import pairwise

import pytest
from clusters import cluster_file, instance

from inference_serving.cli import main

WORKLOAD = [
    {"input_toks": 300, "output_toks": 3, "arrival_time_ns": 0},
    {"input_toks": 20, "output_toks": 2, "arrival_time_ns": 1000},
]


@pytest.fixture
def logged(tmp_path):
    """Lines and summary of a run with 128 tokens an iteration."""

    def run(*flags: str, roles: tuple[str | None, ...] = (None,)):
        workload, log, summary = (tmp_path / name for name in ("in.jsonl", "log.csv", "run.json"))
        workload.write_text("".join(json.dumps(line) + "\n" for line in WORKLOAD))
        cluster = cluster_file(tmp_path, [instance(tmp_path, 1, role) for role in roles])
        files = ["--iteration-log", str(log), "--summary-json", str(summary)]
        given = ["--cluster-config", str(cluster), "--dataset", str(workload)]
        assert main([*given, *files, "--max-num-batched-tokens", "128", *flags]) == 0
        with log.open() as lines:
            return list(csv.DictReader(lines)), json.loads(summary.read_text())["instances"][0]

    return run


@pytest.mark.parametrize("flags", [[], ["--async-scheduling"]], ids=["as it goes", "formed ahead"])
def test_each_prompt_token_is_in_one_line(logged, flags):
    lines, _ = logged(*flags)
    tokens = {0: 0, 1: 0}
    for line in lines:
        for part in line["prefills"].split():
            request_id, count = part.split(":")
            tokens[int(request_id)] += int(count)
    assert tokens == {0: 300, 1: 20}
    assert sum(int(line["prefill_tokens"]) for line in lines) == 320


def test_a_line_without_prefills_counts_its_decodes(logged):
    lines, _ = logged()
    assert [line["decodes"] for line in lines if not line["prefills"]] == ["2", "1"]


def test_iterations_do_not_overlap_and_add_up_to_the_busy_time(logged):
    lines, summary = logged()
    times = [(int(line["start"]), int(line["end"])) for line in lines]
    assert all(end <= start for (_, end), (start, _) in pairwise(times))
    assert summary["busy_ns"] == sum(end - start for start, end in times)
    assert summary["iterations"] == len(times)


def test_layer_groups_have_a_line_each(logged):
    groups = ("--scheduling-policy", "srpt", "--policy-args", "groups=2")
    lines, _ = logged(*groups, roles=("prefill", "decode"))
    first = [line for line in lines if line["prefills"].startswith("0:128")]
    assert [(line["group"], line["groups"]) for line in first] == [("0", "2"), ("1", "2")] * 2


def test_the_log_must_not_overwrite_another_output(logged, tmp_path, capsys):
    same = str(tmp_path / "log.csv")
    code = main(["--dataset", same, "--iteration-log", same])
    assert code == 2
    assert "is the file of --dataset too" in capsys.readouterr().err

"""Specification of what a run says of its sessions: columns, summary, JSON, and the command line around them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from clusters import cluster_file, instance
from session_runs import session, simulation_of

from inference_serving.cli import main
from inference_serving.request import RequestState
from inference_serving.session_summary import summarise_sessions
from inference_serving.settings import SimulationConfig

TURNS = [
    {"input_toks": 20, "output_toks": 3, "tool_duration_ns": 2_000_000},
    {"input_toks": 40, "output_toks": 2},
]
ALONE = {"input_toks": 10, "output_toks": 2, "arrival_time_ns": 0}


@pytest.fixture
def run(tmp_path: Path, capsys):
    """Runs main.py on a session and a request; returns the exit code, the CSV, the JSON and stdout."""

    def start(*flags: str, lines=(ALONE, {"arrival_time_ns": 5, "session_id": "fix", "sub_requests": TURNS})):
        dataset = tmp_path / "workload.jsonl"
        dataset.write_text("".join(json.dumps(line) + "\n" for line in lines))
        outputs = ["--output", str(tmp_path / "run.csv"), "--summary-json", str(tmp_path / "run.json")]
        config = str(cluster_file(tmp_path, [instance(tmp_path)]))
        code = main(["--cluster-config", config, "--dataset", str(dataset), *outputs, *flags])
        said = capsys.readouterr()
        if code:
            return code, said.err
        rows = list(csv.DictReader((tmp_path / "run.csv").open()))
        return rows, json.loads((tmp_path / "run.json").read_text()), said.out

    return start


def test_columns_say_session_and_turn_and_are_empty_for_others(run):
    rows, _, _ = run()
    cells = [(row["session_id"], row["turn"], row["client_wait"]) for row in rows]
    assert cells == [("", "", ""), ("fix", "0", ""), ("fix", "1", "")]


def test_with_a_limit_the_time_at_the_client_has_a_column_and_no_part_in_the_latencies(run):
    rows, _, _ = run("--max-concurrency", "1")
    first, second, third = ({name: int(row[name]) for name in TIMES} for row in rows)
    assert first["client_wait"] == third["client_wait"] == 0
    assert second["arrival"] == first["end_time"] == 5 + second["client_wait"]
    assert second["latency"] == second["end_time"] - second["arrival"]


TIMES = ("arrival", "end_time", "latency", "client_wait")


def test_summary_and_json_count_sessions_and_turns_and_time_them_from_arrival_to_last_end(run):
    rows, facts, text = run()
    time_s = (int(rows[2]["end_time"]) - 5) / 1e9
    assert facts["sessions"] == {
        "given": 1,
        "finished": 1,
        "turns": {"given": 2, "finished": 2},
        "time_s": {"mean": time_s, "median": time_s, "p99": time_s},
        "tool_time_mean_s": 0.002,
    }
    shown = [line.split() for line in text.splitlines()]
    assert ["Finished", "sessions:", "1", "of", "1"] in shown
    assert ["Finished", "turns:", "2", "of", "2"] in shown
    assert ["Mean", "session", "time", "(s):", f"{time_s:.3f}"] in shown


def test_a_workload_without_sessions_has_no_word_of_them(run):
    _, facts, text = run(lines=[ALONE])
    assert "sessions" not in facts
    assert "session" not in text.lower()


def test_a_session_counts_with_what_its_client_held_back_and_unfinished_ones_have_no_time(tmp_path):
    workload = session(0, "a", 0, [(20, 4, 0)]) + session(1, "b", 0, [(20, 4, 50), (30, 2, 0)])
    simulation = simulation_of(tmp_path, workload, config=SimulationConfig(max_concurrency=1))
    simulation.run()
    first, last = simulation.requests[0], simulation.requests[2]
    summary = summarise_sessions(simulation.requests)
    assert summary is not None
    assert summary.time.mean_ns == (first.end_ns + last.end_ns) / 2
    last.state = RequestState.RUNNING
    summary = summarise_sessions(simulation.requests)
    assert summary is not None
    assert (summary.finished, summary.turns_finished, summary.time.mean_ns) == (1, 2, first.end_ns)


def test_sessions_without_ids_may_run_with_prefix_caching(run):
    rows, _, _ = run("--enable-prefix-caching", "--request-routing-policy", "PREFIX")
    assert [row["prefix_hit_tokens"] for row in rows] == ["0", "0", "16"]


def test_prefix_routing_without_prefix_caching_is_refused(run):
    assert run("--request-routing-policy", "PREFIX") == (
        2,
        "error: --request-routing-policy: PREFIX: looks at cached prefixes; add --enable-prefix-caching\n",
    )


def test_a_negative_limit_is_refused(run):
    assert run("--max-concurrency", "-1") == (2, "error: --max-concurrency: -1: must be at least 0\n")


def test_a_turn_that_can_never_be_served_is_named(run, tmp_path):
    line = {"arrival_time_ns": 0, "sub_requests": [TURNS[0], {"input_toks": 4096, "output_toks": 1}]}
    assert run(lines=[line]) == (
        2,
        f"error: {tmp_path}/workload.jsonl: request 1 (turn 1 of session 0): input_toks: 4096: the prompt must be "
        "shorter than the model's context of 4096 tokens\n",
    )

"""Scenarios run as processes: failures are reported and stop nobody, what is unsupported is skipped by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from astra_sim.input_error import InputError
from evaluation.figure import Figure, main, make
from evaluation.figure_9 import figure_9
from evaluation.inputs import DATASET_VARIABLE, REFERENCE_VARIABLE, Inputs
from evaluation.scenarios import Scenario, run_scenarios
from evaluation.token_ids import workload_with_ids

GOOD = replace(figure_9.FIGURE.scenarios[0], name="good", workload="example_trace")
BAD = Scenario("bad", Path("no_such_cluster.json"), "example_trace")
SKIPPED = replace(GOOD, name="later", waits_for="teleportation")


def figure_of(*scenarios):
    return Figure("figure_t", "a test", scenarios, figure_9.FIGURE.parse, lambda *_: [], lambda _: [])


@pytest.fixture(autouse=True)
def _no_folders_from_outside(monkeypatch):
    monkeypatch.delenv(DATASET_VARIABLE, raising=False)
    monkeypatch.delenv(REFERENCE_VARIABLE, raising=False)


def test_a_failed_scenario_does_not_stop_the_others_and_gives_exit_code_1(tmp_path, capsys):
    code = main([figure_of(BAD, GOOD, SKIPPED)], ["--output-dir", str(tmp_path), "--processes", "2"])
    out = capsys.readouterr().out
    assert code == 1
    assert "1 scenarios simulated, 1 skipped, 1 failed" in out
    assert "failed: figure_t bad: exit code 2: error: no_such_cluster.json" in out
    assert "no_such_cluster.json" in (tmp_path / "figure_t/logs/bad.log").read_text()


def test_what_is_skipped_is_named_and_no_failure(tmp_path, capsys):
    assert main([figure_of(SKIPPED)], ["--output-dir", str(tmp_path)]) == 0
    assert "skipped: figure_t later: teleportation: not there yet" in capsys.readouterr().out


def test_outcomes_keep_the_order_of_the_scenarios(tmp_path):
    outcomes = run_scenarios([BAD, SKIPPED], tmp_path, Inputs())
    assert [one.status for one in outcomes] == ["failed", "skipped"]


def test_a_failure_leaves_no_results_of_an_earlier_run(tmp_path):
    make(figure_of(GOOD), Inputs(output_dir=tmp_path))
    broken = replace(GOOD, config=BAD.config)
    results = make(figure_of(broken), Inputs(output_dir=tmp_path))
    assert not (tmp_path / "figure_t/results/good.csv").exists()
    assert results.rows == ()


def test_two_runs_parse_to_equal_bytes(tmp_path):
    texts = []
    for name in ("one", "two"):
        make(figure_of(GOOD), Inputs(output_dir=tmp_path / name))
        texts.append((tmp_path / name / "figure_t/parsed/figure_t.tsv").read_bytes())
    assert texts[0] == texts[1]
    assert b"mean_ttft_ms" in texts[0]


def test_a_workload_that_the_dataset_folder_lacks_is_a_named_failure(tmp_path):
    (outcome,) = run_scenarios([GOOD], tmp_path, Inputs(dataset_dir=tmp_path))
    assert outcome.status == "failed"
    assert "example_trace.jsonl" in outcome.why


@pytest.mark.parametrize("flag", ["--dataset-dir", "--reference-dir"])
def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys, flag):
    assert main([figure_of(GOOD)], [flag, str(tmp_path / "gone"), "--output-dir", str(tmp_path)]) == 2
    assert flag in capsys.readouterr().err


def test_folders_come_from_the_environment_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(DATASET_VARIABLE, str(tmp_path / "gone"))
    assert main([figure_of(GOOD)], ["--output-dir", str(tmp_path)]) == 2
    assert DATASET_VARIABLE in capsys.readouterr().err


def test_real_series_are_used_with_the_original_requests_only(tmp_path):
    (tmp_path / "series.tsv").touch()
    assert Inputs(reference_dir=tmp_path).real("series.tsv") is None
    both = Inputs(reference_dir=tmp_path, dataset_dir=tmp_path)
    assert both.real("series.tsv") == tmp_path / "series.tsv"
    assert both.real("other.tsv") is None


def test_missing_workloads_raise(tmp_path):
    with pytest.raises(InputError, match="no such workload"):
        Inputs(dataset_dir=tmp_path).workload("x")


def test_token_ids_share_openings_and_nothing_else(tmp_path):
    out = workload_with_ids(Inputs().workload("sharegpt_req100_rate10_llama"), tmp_path / "ids.jsonl")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(len(one["input_tok_ids"]) == one["input_toks"] for one in records)
    assert all(len(one["output_tok_ids"]) == one["output_toks"] for one in records)
    longer = [one["input_tok_ids"] for one in records if one["input_toks"] > 48]
    assert len({tuple(ids[:32]) for ids in longer}) == 4
    assert len({tuple(ids[32:48]) for ids in longer}) == len(longer)

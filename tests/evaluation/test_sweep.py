"""A tiny sweep from end to end: runs, resumption, failures, tidy results, tables and figures."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from astra_sim.input_error import InputError
from evaluation.hol import analyze, sweep
from evaluation.hol.plan import PolicyEntry
from evaluation.hol.store import Store
from evaluation.hol.workloads import ROOT

TINY = """
training: {kinds: [long5-32k], load: 0.9, seed: 99, requests: 20, cluster: h100_8b_1p2d, chunks: [1024, 2048]}
experiments:
  main:
    workloads: [alternating]
    loads: [0.9]
    seeds: [1]
    requests: 30
    clusters: [h100_8b_1p2d]
    policies: [fcfs-2048, srpt, bounded-overtake]
episode:
  {workload: alternating, load: 0.9, seed: 1, requests: 30, cluster: h100_8b_1p2d,
   policies: [fcfs-2048, bounded-overtake]}
"""
RUNS = 2 + 3 + 2


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path]:
    """The sweep file and the folder of a sweep that has been run."""
    folder = tmp_path_factory.mktemp("sweep")
    file, output = folder / "tiny.yaml", folder / "output"
    file.write_text(TINY)
    assert sweep.main([str(file), "--output", str(output), "--processes", "2"]) == 0
    return file, output


@pytest.fixture
def copied(done, tmp_path) -> tuple[Path, Path]:
    """The same, to be changed."""
    file, output = done
    shutil.copytree(output, tmp_path / "output")
    return file, tmp_path / "output"


def point_folders(output: Path) -> list[Path]:
    return sorted(folder for folder in (output / "points").iterdir())


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_every_point_is_run_once_and_nothing_half_done_is_left(done):
    folders = point_folders(done[1])
    assert len(folders) == RUNS
    assert all((folder / "point.json").is_file() for folder in folders)
    assert not any(folder.name.startswith(".") for folder in folders)


def test_results_have_a_row_a_point_and_class(done):
    found = rows(done[1])
    assert len(found) == 5 * 3
    assert {row["class"] for row in found} == {"short", "long", "all"}
    assert all(int(row["requests"]) > 0 and float(row["ttft_p99_ms"]) > 0 for row in found)


def test_the_load_that_was_drawn_is_near_the_one_asked_for(done):
    assert all(0.6 < float(row["load_drawn"]) < 1.4 for row in rows(done[1]))


def test_our_policy_keeps_its_bound_and_shorts_do_not_wait_for_longs(done):
    short = {row["policy"]: row for row in rows(done[1]) if row["class"] == "short"}
    assert float(short["bounded-overtake"]["ttft_p99_ms"]) < float(short["fcfs-2048"]["ttft_p99_ms"]) / 5
    ours = [row for row in rows(done[1]) if row["policy"] == "bounded-overtake"]
    assert {row["violations"] for row in ours} == {row["promises_broken"] for row in ours} == {"0"}


def test_the_best_chunk_is_the_one_with_the_lowest_p99(done):
    (facts,) = json.loads((done[1] / "chunks.json").read_text())
    p99 = facts["short_p99_ttft_ms"]
    assert set(p99) == {"1024", "2048"}
    assert p99[str(facts["best_chunk"])] == min(p99.values())


def test_a_second_run_does_nothing_again(copied, capsys):
    file, output = copied
    before = {folder: (folder / "point.json").stat().st_mtime_ns for folder in point_folders(output)}
    assert sweep.main([str(file), "--output", str(output)]) == 0
    assert "training: 0 runs to do of 2" in (said := capsys.readouterr().out)
    assert "experiments: 0 runs to do of 5" in said
    assert before == {folder: (folder / "point.json").stat().st_mtime_ns for folder in point_folders(output)}


def test_only_what_is_missing_is_run_and_gives_the_same(copied, capsys):
    file, output = copied
    lost = next(
        folder for folder in point_folders(output) if "_srpt_" in folder.name and "_s1_" in folder.name
    )
    before = (output / "results.csv").read_text()
    shutil.rmtree(lost)
    assert sweep.main([str(file), "--output", str(output)]) == 0
    assert "experiments: 1 runs to do of 5" in capsys.readouterr().out
    assert (output / "results.csv").read_text() == before


def test_a_point_that_fails_is_reported_and_the_others_go_on(copied):
    file, output = copied
    setup = sweep.open_setup(file, output)
    policies = dict(setup.policies) | {"srpt": PolicyEntry(policy="srpt", args="nonsense=1", chunk=2048)}
    failures = sweep.run(replace(setup, policies=policies), output, 1)
    (failure,) = failures
    assert "nonsense is unknown" in failure.reason
    assert "_srpt_" in failure.point_id
    assert {row["policy"] for row in rows(output)} == {"fcfs-2048", "bounded-overtake"}


def test_an_interrupt_keeps_what_has_finished(tmp_path):
    file, output = tmp_path / "tiny.yaml", tmp_path / "output"
    file.write_text(TINY.replace("seeds: [1]", f"seeds: {list(range(1, 30))}"))
    command = [
        sys.executable,
        "-m",
        "evaluation.hol.sweep",
        str(file),
        "--output",
        str(output),
        "--processes",
        "1",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not list(output.glob("points/*/point.json")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run this again to go on" in said
    assert list(output.glob("points/*/point.json"))


def test_a_changed_result_changes_the_tables(copied):
    file, output = copied
    setup = sweep.open_setup(file, output)
    analyze.analyze(setup, output, draw=False)
    before = (output / "tables" / "main.csv").read_text()
    point = next(one for one in setup.experiments()["main"] if one.contestant == "bounded-overtake")
    where = setup.store.place(point) / "requests.npz"
    table = dict(setup.store.load(point).requests)
    table["ttft"] = table["ttft"] + np.where(table["class"] == "long", 10**12, 0)
    np.savez_compressed(where, allow_pickle=False, **table)
    analyze.analyze(setup, output, draw=False)
    assert (output / "tables" / "main.csv").read_text() != before
    assert "MISSED" in (output / "tables" / "claims.md").read_text()
    sweep.main([str(file), "--output", str(output)])
    late = {row["point"]: int(row["violations"]) for row in rows(output) if row["class"] == "all"}
    assert late[point.point_id] > 0
    assert sum(late.values()) == late[point.point_id], "nothing but the changed run is late"


def test_runs_of_two_versions_of_the_simulator_are_told_apart(copied, capsys):
    file, output = copied
    setup = sweep.open_setup(file, output)
    place = setup.store.place(setup.experiments()["main"][0]) / "point.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"sources": "other"}))
    analyze.analyze(setup, output, draw=False)
    assert "2 versions of the simulator" in capsys.readouterr().err


def test_analysing_nothing_says_what_to_run(tmp_path, done):
    with pytest.raises(InputError, match=r"run_hol\.sh"):
        analyze.analyze(sweep.open_setup(done[0], tmp_path), tmp_path)


def test_a_trace_of_ones_own_is_served_by_the_main_policies(copied, tmp_path):
    file, output = copied
    trace = tmp_path / "mine.jsonl"
    lines = ({"input_toks": 100, "output_toks": 2, "arrival_time_ns": at * 10**6} for at in range(5))
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sweep.main([str(file), "--output", str(output), "--workload", str(trace)]) == 0
    assert sum(row["workload"] == "mine" for row in rows(output)) == 3 * 2


def test_a_store_never_shows_a_half_done_point(tmp_path, done):
    setup = sweep.open_setup(*done)
    point = setup.experiments()["main"][0]
    store = Store(tmp_path)
    (store.scratch(point) / "summary.json").write_text("{}")
    assert not store.has(point)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra report")
def test_figures_are_written_as_pdf_and_png(copied):
    file, output = copied
    files = analyze.analyze(sweep.open_setup(file, output), output)
    stems = {one.stem for one in files}
    assert stems == {"slowdown_cdf", "pareto", "fairness", "shadowing", "episode"}
    assert {one.read_bytes()[:4] for one in files} == {b"%PDF", b"\x89PNG"}

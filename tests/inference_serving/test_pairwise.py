"""Every pair of features: each two of all kinds of cluster, workloads and flags meet in one of some hundred runs.

A run ends with exit code 0 and every invariant of docs/invariants.md. What cannot be combined is listed once, in
``pairwise_axes.IMPOSSIBLE``, and is refused with exit code 2 and a message that names both.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from covering_array import Row, completed_row, covering_rows, missing_pairs
from pairwise_axes import (
    AXES,
    CLUSTERS,
    FLAGS,
    IMPOSSIBLE,
    POOLS,
    WORKLOADS,
    allowed,
    changed,
    pairs_of,
)
from run_invariants import Watch, check_ended

from inference_serving import cli
from inference_serving.cluster import Cluster
from inference_serving.simulation import Simulation
from inference_serving.why import parse_ledger

ROWS = covering_rows(AXES, allowed)
FEWEST_ROWS = 200
PLAIN = {axis: values[0] for axis, values in AXES.items()}


@dataclass
class Ended:
    """What a run left behind; no run if it was refused."""

    code: int
    stderr: str
    run: tuple[Simulation, Cluster] | None
    watch: Watch
    lines: list[dict[str, str]] = field(default_factory=list)
    """Of the CSV."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on a row's choices, in this process, and watch its simulation."""
    made: list[tuple[Simulation, Cluster]] = []
    watch = Watch()

    def simulation_of(cluster, workload, config, latencies, observers):
        observers.append(watch)
        made.append((Simulation(cluster, workload, config, latencies, observers), cluster))
        return made[-1][0]

    def run_row(row: Row) -> Ended:
        monkeypatch.setattr(cli, "Simulation", simulation_of)
        cluster = changed(CLUSTERS[row["cluster"]](tmp_path), **POOLS[row["pool"]])
        workload = tmp_path / "workload.jsonl"
        workload.write_text("".join(json.dumps(line) + "\n" for line in WORKLOADS[row["workload"]]()))
        output = tmp_path / "run.csv"
        code = cli.main([*command(row, cluster, workload, tmp_path), "--output", str(output)])
        ended = Ended(code, capsys.readouterr().err, made[0] if made else None, watch)
        if output.exists():
            with output.open() as file:
                ended.lines = list(csv.DictReader(file))
        return ended

    return run_row


def command(row: Mapping[str, str], cluster: Path, workload: Path, folder: Path) -> list[str]:
    """Arguments of a row; every LOG is a place of its own."""
    flags = [part for axis, values in FLAGS.items() for part in values[row[axis]]]
    places = [str(folder / f"log{number}") if part == "LOG" else part for number, part in enumerate(flags)]
    return ["--cluster-config", str(cluster), "--dataset", str(workload), *places]


def told(row: Mapping[str, str]) -> str:
    """The choices of a row that are not a run's usual ones."""
    return ", ".join(f"{axis}: {value}" for axis, value in row.items() if value != PLAIN[axis])


def test_the_rows_hold_every_pair_that_any_run_can_have():
    """What is left out is left out because one of the two needs a third thing that excludes the other."""
    assert len(ROWS) >= FEWEST_ROWS
    for one, other in missing_pairs(ROWS, AXES, allowed):
        assert completed_row(dict([one, other]), AXES, allowed) is None, f"{one} and {other} are in no row"


@pytest.mark.parametrize("row", ROWS, ids=told)
def test_it_runs_to_its_end_and_keeps_the_invariants(run, row):
    ended = run(row)
    assert ended.code == 0
    assert all(line.startswith("note: ") for line in ended.stderr.splitlines()), ended.stderr
    assert ended.run is not None
    assert ended.watch.iterations > 0
    check_ended(*ended.run, ended.watch)
    assert len(ended.lines) == len(ended.run[0].requests)
    for line in ended.lines:
        if row["ledger"] == "on":
            assert sum(parse_ledger(line["wait_ledger"]).values()) == int(line["TTFT"])
        assert (row["cluster"] == "power") == bool(line["energy_j"])
        assert float(line["energy_j"] or 1) > 0


@pytest.mark.parametrize("rule", IMPOSSIBLE, ids=lambda rule: f"{rule.one[0]} and {rule.other[0]}")
def test_what_does_not_go_together_is_refused_with_a_reason_that_names_both(run, rule):
    refused = 0
    for one, other in pairs_of(rule):
        row = completed_row(dict([one, other]), AXES, allowed)
        if row is None:  # one of the two needs something that excludes the other as well
            continue
        ended = run(row)
        errors = [line for line in ended.stderr.splitlines() if not line.startswith("note: ")]
        assert (ended.code, len(errors)) == (2, 1), f"{one} and {other}: {ended.stderr}"
        for word in rule.words:
            assert word.replace("POLICY", one[1].split(",")[0]) in ended.stderr
        refused += 1
    assert refused

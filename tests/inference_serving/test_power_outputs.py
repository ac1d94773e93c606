"""Power on the command line: a checked ``power`` block in; log, summary, JSON, CSV column and series out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from clusters import cluster_file, instance
from outcomes import Outcome, refused
from power_clusters import power_block, powered_file

from inference_serving.cli import main

NPU = "nodes[0].power.npu.H100"
WORKLOAD = [
    {"input_toks": 30, "output_toks": 5, "arrival_time_ns": 0},
    {"input_toks": 10, "output_toks": 2, "arrival_time_ns": 2_600_000_000},
]


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on a cluster file with every output asked for."""

    def run_on(cluster: Path, *flags: str, workload: list[dict[str, Any]] | None = None) -> Outcome:
        dataset = tmp_path / "workload.jsonl"
        dataset.write_text("".join(json.dumps(line) + "\n" for line in workload or WORKLOAD))
        before = set(tmp_path.rglob("*"))
        names = {"--output": "run.csv", "--summary-json": "run.json"}
        out = [word for flag, name in names.items() for word in (flag, str(tmp_path / name))]
        code = main(["--cluster-config", str(cluster), "--dataset", str(dataset), *out, *flags])
        captured = capsys.readouterr()
        new = sorted(file.name for file in set(tmp_path.rglob("*")) - before)
        return Outcome(code, captured.err, captured.out, new)

    return run_on


@pytest.fixture
def powered(tmp_path) -> Path:
    return powered_file(tmp_path, [instance(tmp_path)])


def rows_of(file: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines, delimiter=delimiter))


def series_of(tmp_path: Path, run, powered: Path) -> list[dict[str, float]]:
    file = tmp_path / "power.tsv"
    assert run(powered, "--power-series", str(file), "--log-interval", "1").code == 0
    return [{name: float(value) for name, value in row.items()} for row in rows_of(file, "\t")]


def test_a_series_has_every_interval_and_its_parts_sum_up(tmp_path, run, powered):
    rows = series_of(tmp_path, run, powered)
    assert [row["time_s"] for row in rows[:2]] == [1, 2]
    assert 2.6 < rows[2]["time_s"] < 2.61
    names = [f"node0_{part}_w" for part in ("base_node", "cpu", "dram", "link", "nic", "npu", "storage")]
    assert list(rows[0]) == ["time_s", "power_w", *names]
    for row in rows:
        assert row["power_w"] == pytest.approx(sum(row[name] for name in names), abs=0.005)


def test_outputs_agree_on_the_energy(tmp_path, run, powered):
    rows = series_of(tmp_path, run, powered)
    starts = [0.0, *(row["time_s"] for row in rows)]
    series_j = sum(row["power_w"] * (row["time_s"] - start) for row, start in zip(rows, starts, strict=False))
    facts = json.loads((tmp_path / "run.json").read_text())["power"]
    assert series_j == pytest.approx(facts["energy_j"], rel=1e-5)
    (node,) = facts["nodes"]
    assert node["energy_j"] == pytest.approx(facts["energy_j"])
    assert sum(node["energy_by_component_j"].values()) == pytest.approx(facts["energy_j"])
    assert facts["mean_power_w"] == pytest.approx(facts["energy_j"] / starts[-1])
    assert facts["energy_per_generated_token_j"] == pytest.approx(facts["energy_j"] / 7)
    requests_j = sum(float(row["energy_j"]) for row in rows_of(tmp_path / "run.csv"))
    assert requests_j == pytest.approx(facts["requests_energy_j"], abs=2e-6)
    assert facts["requests_energy_j"] + facts["unassigned_energy_j"] == pytest.approx(facts["energy_j"])
    assert facts["peak_interval_power_w"] == pytest.approx(max(row["power_w"] for row in rows), abs=0.001)


def test_the_log_tells_the_power_of_its_intervals(tmp_path, run, powered):
    rows = series_of(tmp_path, run, powered)
    out = run(powered, "--log-interval", "1").stdout
    logged = [line.rpartition(", power: ")[2] for line in out.splitlines() if line.startswith("[")]
    assert logged == [f"{rows[0]['power_w']:.1f} W", f"{rows[2]['power_w']:.1f} W"]


def test_the_summary_has_a_block_of_power(run, powered):
    lines = run(powered).stdout.splitlines()
    block = lines[lines.index(" Power Results ".center(58, "=")) + 1 : -1]
    assert [line.split(":")[0] for line in block] == [
        "Total energy (kJ)",
        "Mean power (W)",
        "Peak interval power (W)",
        "Energy per generated token (J)",
        "Energy in requests (kJ)",
        *(f"Node 0 {part} (kJ)" for part in ("base_node", "cpu", "dram", "link", "nic", "npu", "storage")),
    ]


def test_without_a_power_block_nothing_speaks_of_power(tmp_path, run):
    outcome = run(cluster_file(tmp_path, [instance(tmp_path)]))
    assert outcome.code == 0
    assert "ower" not in outcome.stdout
    assert "power" not in json.loads((tmp_path / "run.json").read_text())
    assert [row["energy_j"] for row in rows_of(tmp_path / "run.csv")] == ["", ""]


def test_a_series_needs_a_power_block(tmp_path, run):
    file = cluster_file(tmp_path, [instance(tmp_path)])
    message = f"{file}: nodes[].power: is missing, but --power-series needs it; give a node a power block"
    assert run(file, "--power-series", str(tmp_path / "power.tsv")) == refused(message)


def test_a_series_must_not_overwrite_another_output(tmp_path, run, powered):
    file = tmp_path / "run.csv"
    message = f"{file}: --power-series: is the file of --output too; give another name"
    assert run(powered, "--power-series", str(file)) == refused(message)


def test_intervals_too_short_to_keep_are_refused(run, powered):
    message = "--log-interval: 0.0005: with power it must be at least 0.001 seconds"
    assert run(powered, "--log-interval", "0.0005") == refused(message)


def test_arrivals_too_late_to_keep_every_interval_are_refused(run, powered):
    late = [{"input_toks": 9, "output_toks": 2, "arrival_time_ns": 1_700_000_000 * 10**9}]
    assert run(powered, workload=late) == refused(
        "--log-interval: 0.5: the last request arrives after 3400000000 intervals, but with power at most 1000000 "
        "are kept; give a longer interval, or arrivals that start near 0"
    )


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"base_node_power": 60}, "nodes[0].power.npu: this field is required"),
        (
            power_block(base_node_power=-1),
            "nodes[0].power.base_node_power: -1: input should be greater than or equal to 0",
        ),
        (
            power_block(base_node_power="60"),
            "nodes[0].power.base_node_power: '60': input should be a valid number",
        ),
        (power_block(fan=3), "nodes[0].power.fan: unknown field; check the spelling"),
        (power_block(npu={"idle": 3}), f"{NPU}.idle: unknown field; check the spelling"),
        (
            power_block(npu={"idle_power": 60}),
            f"{NPU}: idle_power = 60, standby_power = 50 and active_power = 300 must not fall in this order",
        ),
        (
            power_block(npu={"standby_duration": -1}),
            f"{NPU}.standby_duration: -1: input should be greater than or equal to 0",
        ),
        (
            power_block(cpu={"util": 15}),
            "nodes[0].power.cpu.util: 15: input should be less than or equal to 1",
        ),
        (
            power_block(cpu={"idle_power": 200}),
            "nodes[0].power.cpu: idle_power = 200 must not be above active_power = 110",
        ),
        (
            power_block(dram={"dimm_size": 0}),
            "nodes[0].power.dram.dimm_size: 0: input should be greater than 0",
        ),
        (
            power_block(nic={"num_nics": 1.5}),
            "nodes[0].power.nic.num_nics: 1.5: input should be a valid integer",
        ),
        (
            {**power_block(), "npu": {"A6000": power_block()["npu"]["H100"]}},
            "nodes[0]: power.npu has A6000, but an instance of the node has hardware 'H100'; describe it too",
        ),
    ],
)
def test_a_wrong_power_block_is_refused(tmp_path, run, block, message):
    file = powered_file(tmp_path, [instance(tmp_path)], block)
    assert run(file) == refused(f"{file}: {message}")

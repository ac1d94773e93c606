"""Tables that hold recorded runs against each other and against the simulator."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from integrations.compare_runs import Compared, Times, disturbance_table, main, ratio_table, ttft_table


def compared(policy: str, seed: int, short: list[float], long: list[float], first: int = 7) -> Compared:
    measured = Times(np.array(short), np.array(long), np.array([0.016, 0.018]), np.array([4.0, 5.0]))
    half = Times(measured.short / 2, measured.long / 2, measured.tpot / 2, measured.latency)
    event = {"pol": 8e-05, "rq": 0.25}
    times = {"measured": measured, "predicted": half, "at speed": measured}
    return Compared(policy, seed, times, 0.9, [event, event], 0.002, [first] * 4)


RUNS = [
    compared("bo", 1, [1, 2, 3], [9]),
    compared("fcfs", 1, [10, 20, 30], [6]),
    compared("bo", 2, [1, 1, 1], [9], first=8),
    compared("fcfs", 2, [2, 2, 2], []),
]


def write(file: Path, *lines: dict) -> None:
    file.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_times_are_split_by_prompt_length_and_shown_by_run():
    lines = ttft_table(RUNS)
    assert cells(lines[3]) == [
        "bo-s1",
        "measured",
        "2.000",
        "2.000",
        "2.980",
        "9.000",
        "9.000",
        "17.00",
        "4.500",
    ]
    assert cells(lines[12])[:2] == ["fcfs-s2", "measured"]
    assert cells(lines[12])[-4:-2] == ["", ""]
    assert cells(lines[-3])[:4] == ["fcfs, pooled", "measured", "11.000", "6.000"]
    assert cells(lines[-3])[4:] == ["29.500", "6.000", "6.000", "17.00", "4.500"]


def test_ratios_are_shown_by_seed_and_pooled():
    _, head, _, *rows = ratio_table(RUNS, "bo", "fcfs")
    assert cells(head)[:2] == ["bo / fcfs", "short TTFT"]
    assert [cells(row)[:2] for row in rows[:3]] == [
        ["seed 1", "mean"],
        ["seed 1", "p99"],
        ["seed 2", "mean"],
    ]
    assert cells(rows[0])[2:] == ["0.100", "0.100", "0.100", "1.000", "1.000"]
    assert cells(rows[4])[2] == f"{9 / 66:.3f}"


def test_seeds_that_one_of_both_lacks_are_left_out():
    rows = ratio_table(RUNS[:3], "bo", "fcfs")[3:]
    assert [cells(row)[0] for row in rows] == ["seed 1", "seed 1", "pooled", "pooled"]
    assert len(ratio_table(RUNS[:1], "bo", "fcfs")) == 3


def test_disturbances_are_shown_by_run():
    rows = disturbance_table(RUNS)[3:]
    assert cells(rows[0]) == ["bo-s1", "2", "0.900", "0.500", "2.000", "80", "80", "4 / 4"]
    assert cells(rows[2])[-1] == "0 / 4"


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, capsys):
    write(tmp_path / "bo-s1.reqs.jsonl.gz", {"meta": 1})
    assert main([str(tmp_path)]) == 2
    assert "bo-s1.reqs.jsonl.gz" in capsys.readouterr().err


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no runs" in capsys.readouterr().err


REQUEST = {"i": 0, "p": 5, "o": 1, "arr": 0.5, "late": 0.0, "ttft": 0.25, "e2e": 0.25, "ts": [0.75]}


def test_a_run_without_its_iterations_is_refused(tmp_path, capsys):
    write(tmp_path / "bo-s1.reqs.jsonl.gz", {"meta": {"mnbt": 512}}, REQUEST)
    assert main([str(tmp_path)]) == 2
    assert "bo-s1.iters.jsonl.gz" in capsys.readouterr().err


def test_a_recording_that_does_not_name_its_model_is_refused(tmp_path, capsys):
    write(tmp_path / "bo-s1.reqs.jsonl.gz", {"meta": {"mnbt": 512}}, REQUEST)
    write(tmp_path / "bo-s1.iters.jsonl.gz", {"ev": "it"})
    assert main([str(tmp_path)]) == 2
    assert "bo-s1.reqs.jsonl.gz: model: is missing" in capsys.readouterr().err

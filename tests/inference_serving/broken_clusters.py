"""Cluster configs with something wrong, and what the command makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcomes
from clusters import cluster_file, instance
from outcomes import Outcome

from inference_serving.cli import main

AT = "nodes[0].instances[0]"
ABSENT = object()


def runner(tmp_path: Path, capsys: Any) -> Callable[..., Outcome]:
    """Run the command on a cluster file, with a good workload and both kinds of output asked for."""

    def run_on(cluster: Path, *flags: str) -> Outcome:
        workload = tmp_path / "workload.jsonl"
        workload.write_text('{"input_toks": 10, "output_toks": 3, "arrival_time_ns": 0}\n')
        before = set(tmp_path.rglob("*"))
        output = ["--output", str(tmp_path / "out" / "run.csv"), "--summary-json", str(tmp_path / "run.json")]
        code = main(["--cluster-config", str(cluster), "--dataset", str(workload), *output, *flags])
        captured = capsys.readouterr()
        new = sorted(str(file) for file in set(tmp_path.rglob("*")) - before)
        return Outcome(code, captured.err, captured.out, new)

    return run_on


def refused(file: Path, message: str) -> Outcome:
    """What the command must leave behind when a file is wrong."""
    return outcomes.refused(f"{file}: {message}")


def broken(folder: Path, section: str, changes: dict[str, Any], npus: int = 1) -> Path:
    """Write a one-instance cluster config with some fields of one section changed or taken out."""
    file = cluster_file(folder, [instance(folder, npus)])
    config = json.loads(file.read_text())
    node = config["nodes"][0]
    one = node["instances"][0]
    sections = {
        "top": config,
        "node": node,
        "cpu_mem": node["cpu_mem"],
        "instance": one,
        "npu_mem": one["npu_mem"],
    }
    for field, value in changes.items():
        if value is ABSENT:
            del sections[section][field]
        else:
            sections[section][field] = value
    file.write_text(json.dumps(config))
    return file

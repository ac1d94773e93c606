"""Finished runs on disk: a folder a point, there as a whole or not at all."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.hol.plan import Point
from evaluation.hol.workloads import sources_hash

Table = Mapping[str, NDArray[Any]]
"""Requests by column, one entry a request, in order of request id; times in ns."""
_NUMBERS = {
    "request id": "request",
    "input": "input",
    "output": "output",
    "arrival": "arrival",
    "end_time": "end",
    "TTFT": "ttft",
    "TPOT": "tpot",
    "prefill_instance_id": "instance",
    "preemptions": "preemptions",
    "isolated_prefill": "isolated",
    "chunks": "chunks",
    "pauses": "pauses",
    "overtaken": "overtaken",
    "bound": "bound",
}
MISSING = -1
"""Where a policy has no such number."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of a run."""

    folder: Path
    requests: Table
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]


class Store:
    """Finished points below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, point: Point) -> Path:
        """The folder that a finished point has."""
        return self.folder / point.point_id

    def has(self, point: Point) -> bool:
        """Whether the point has been run."""
        return (self.place(point) / "point.json").is_file()

    def scratch(self, point: Point) -> Path:
        """An empty folder to run a point in."""
        folder = self.folder / f".{point.point_id}.partial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def keep(self, point: Point, scratch: Path, command: list[str], wall_s: float) -> None:
        """File what a run has written to ``scratch``: request by request in ``requests.npz``, without token times."""
        columns = read_requests(scratch / "requests.csv")
        np.savez_compressed(scratch / "requests.npz", allow_pickle=False, **columns)
        (scratch / "requests.csv").unlink()
        log = scratch / "iterations.csv"
        if log.exists():
            (scratch / "iterations.csv.gz").write_bytes(gzip.compress(log.read_bytes(), 6, mtime=0))
            log.unlink()
        facts = {"point": asdict(point), "command": command, "wall_s": wall_s, "sources": sources_hash()}
        (scratch / "point.json").write_text(json.dumps(facts, indent=2) + "\n")
        shutil.rmtree(self.place(point), ignore_errors=True)
        scratch.rename(self.place(point))

    def load(self, point: Point) -> Finished:
        """A point that has been run."""
        folder = self.place(point)
        summary = json.loads((folder / "summary.json").read_text())
        with np.load(folder / "requests.npz") as arrays:
            table = {name: arrays[name] for name in arrays.files}
        return Finished(folder, table, summary, self.facts(point))

    def facts(self, point: Point) -> Mapping[str, Any]:
        """What ``point.json`` says of a finished run: the point, its command, its wall time, the sources."""
        facts: Mapping[str, Any] = json.loads((self.place(point) / "point.json").read_text())
        return facts


def read_requests(file: Path) -> dict[str, NDArray[Any]]:
    """A per-request CSV of the simulator by column, with :data:`MISSING` for empty cells."""
    with file.open(newline="", encoding="utf-8") as lines:
        csv.field_size_limit(2**31 - 1)
        rows = list(csv.DictReader(lines))
    columns: dict[str, NDArray[Any]] = {
        name: np.array([int(row[title] or MISSING) for row in rows], np.int64)
        for title, name in _NUMBERS.items()
    }
    columns["class"] = np.array([row["class"] for row in rows], np.str_)
    if any(row.get("wait_ledger") for row in rows):
        columns["wait_ledger"] = np.array([row["wait_ledger"] for row in rows], np.str_)
    return columns

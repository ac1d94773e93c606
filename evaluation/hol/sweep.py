"""``python -m evaluation.hol.sweep SWEEP.yaml --output FOLDER``: run a sweep; run it again to go on with it.

First every policy with ``chunk: best`` is run with each chunk on the training workload, then everything else with
the chunk that was best. Exit codes: 0 all points are there, 1 some have failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Never

import numpy as np

from astra_sim.input_error import InputError
from evaluation.hol.plan import (
    Experiment,
    Point,
    PolicyEntry,
    Sweep,
    episode_points,
    experiment_points,
    read_policies,
    read_sweep,
    training_points,
)
from evaluation.hol.runner import Failure, Runner
from evaluation.hol.store import Store
from evaluation.hol.tidy import write_tidy
from evaluation.hol.workloads import Workloads
from inference_serving.files import write_whole

OWN_TRACES = "own traces"
ChunkTable = dict[tuple[str, str], dict[int, float]]
"""p99 TTFT (ms) of the shorts by kind and contestant, then by chunk."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A sweep, its contestants, and where it lives."""

    sweep: Sweep
    policies: Mapping[str, PolicyEntry]
    store: Store

    def experiments(self) -> dict[str, list[Point]]:
        """The points of each experiment, with the chunks that training has found so far."""
        chunks = best_chunks(self.training())
        parts = {
            name: list(experiment_points(one, self.sweep, self.policies, chunks))
            for name, one in self.sweep.experiments.items()
        }
        if episode := episode_points(self.sweep, self.policies, chunks):
            parts["episode"] = episode
        return parts

    def training(self) -> ChunkTable:
        """What the finished runs on the training workloads gave."""
        table: ChunkTable = {}
        for point in training_points(self.sweep, self.policies):
            if self.store.has(point):
                case = table.setdefault((point.workload.kind, point.contestant), {})
                case[point.chunk] = _short_p99_ms(self.store, point)
        return table


def open_setup(sweep_file: Path, output: Path, own: Sequence[Path] = ()) -> Setup:
    """Read a sweep and, with traces of the user's own, add an experiment in which the main policies serve them."""
    policies = read_policies()
    sweep = read_sweep(sweep_file, policies)
    if own:
        main = next(iter(sweep.experiments.values()))
        for file in own:
            if not file.is_file():
                raise InputError(file, "--workload", "no such file")
        added = Experiment(
            workloads=[str(file) for file in own],
            loads=[],
            seeds=[],
            clusters=main.clusters,
            policies=main.policies,
        )
        sweep = sweep.model_copy(update={"experiments": {**sweep.experiments, OWN_TRACES: added}})
    return Setup(sweep, policies, Store(output / "points"))


def best_chunks(table: ChunkTable) -> dict[tuple[str, str], int]:
    """The chunk with the lowest p99 TTFT of the shorts; the smaller of two equals."""
    return {case: min(found, key=lambda chunk: (found[chunk], chunk)) for case, found in table.items()}


def _short_p99_ms(store: Store, point: Point) -> float:
    requests = store.load(point).requests
    kept = np.arange(len(requests["ttft"])) >= point.workload.warm_up * len(requests["ttft"])
    return float(np.percentile(requests["ttft"][kept & (requests["class"] == "short")], 99)) / 1e6


def run(setup: Setup, output: Path, processes: int) -> list[Failure]:
    """Run what is missing, write the tidy table; returns the points that failed."""
    runner = Runner(setup.store, Workloads(output / "workloads"), processes)
    failures = runner.run(list(training_points(setup.sweep, setup.policies)), "training")
    table = setup.training()
    best = best_chunks(table)
    facts = [
        {"kind": kind, "policy": name, "best_chunk": best[kind, name], "short_p99_ttft_ms": found}
        for (kind, name), found in sorted(table.items())
    ]
    write_whole(output / "chunks.json", json.dumps(facts, indent=2) + "\n")
    parts = setup.experiments()
    failures += runner.run([point for points in parts.values() for point in points], "experiments")
    for part, points in parts.items():
        wanted = setup.sweep.experiments[part].policies if part != "episode" else []
        for name in set(wanted) - {point.contestant for point in points}:
            failures.append(Failure(f"{part}: {name}", "not run: training has found no chunk for it"))
    every = dict.fromkeys(point for points in parts.values() for point in points)
    write_tidy([point for point in every if setup.store.has(point)], setup.store, output)
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.hol.sweep", description=__doc__)
    parser.add_argument("sweep", type=Path, help="a sweep file, such as evaluation/hol/small.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder of results")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="runs at a time (default: cores)"
    )
    parser.add_argument(
        "--workload",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="also serve this JSONL trace",
    )
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if args.processes < 1:
            raise InputError("", "--processes", f"{args.processes}: must be at least 1")
        failures = run(open_setup(args.sweep, args.output, args.workload), args.output, args.processes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what has finished is kept, run this again to go on", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"FAILED {failure.point_id}: {failure.reason}", file=sys.stderr)
    return 1 if failures else 0


def _interrupt(number: int, frame: FrameType | None) -> Never:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())

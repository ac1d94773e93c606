"""Runs points in parallel processes; what has finished stays, whatever happens to the rest."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.hol.plan import Point
from evaluation.hol.store import Store
from evaluation.hol.workloads import Workloads, simulator


@dataclass(frozen=True, slots=True)
class Failure:
    """A point that could not be run, and why."""

    point_id: str
    reason: str


class Runner:
    """Runs points that a store does not have yet, at most ``processes`` at a time."""

    def __init__(self, store: Store, workloads: Workloads, processes: int) -> None:
        self._store = store
        self._workloads = workloads
        self._processes = processes
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, points: Sequence[Point], title: str) -> list[Failure]:
        """Run what is missing; returns the points that failed, after all others have been run.

        KeyboardInterrupt ends the runs under way and goes on to the caller.
        """
        missing = [one for one in dict.fromkeys(points) if not self._store.has(one)]
        print(f"{title}: {len(missing)} runs to do of {len(dict.fromkeys(points))}", flush=True)
        failures: list[Failure] = []
        ready: dict[Point, Path] = {}
        for one in missing:  # one after the other: two runs of one workload share its file
            try:
                ready[one] = self._workloads.file(one.workload, one.cluster)
            except InputError as error:
                failures.append(Failure(one.point_id, str(error)))
        with ThreadPoolExecutor(self._processes) as pool:
            try:
                tasks = {pool.submit(self._run, one, file): one for one, file in ready.items()}
                for done, task in enumerate(as_completed(tasks), 1):
                    failure, wall_s = task.result()
                    failures += [failure] if failure else []
                    word = "FAILED" if failure else f"{wall_s:.1f} s"
                    print(f"  [{done}/{len(tasks)}] {tasks[task].point_id}: {word}", flush=True)
            except BaseException:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise
        return failures

    def _run(self, point: Point, dataset: Path) -> tuple[Failure | None, float]:
        start = time.monotonic()
        scratch = self._store.scratch(point)
        command = command_of(point, dataset, scratch)
        with self._lock:
            if self._stopped:
                return Failure(point.point_id, "stopped"), 0.0
            # a session of its own: Ctrl-C reaches the sweep alone, which then ends its runs
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            self._running.add(process)
        try:
            _, stderr = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        wall_s = time.monotonic() - start
        if process.returncode:
            shutil.rmtree(scratch, ignore_errors=True)
            last = stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            return Failure(point.point_id, f"{last[0]}\n    {' '.join(command)}"), wall_s
        self._store.keep(point, scratch, command, round(wall_s, 2))
        return None, wall_s

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()


def command_of(point: Point, dataset: Path, folder: Path) -> list[str]:
    """The command line that runs a point and writes its files to ``folder``."""
    flags = {
        "--cluster-config": str(point.cluster_file),
        "--dataset": str(dataset),
        "--request-routing-policy": point.router,
        "--scheduling-policy": point.policy,
        "--policy-args": point.args,
        "--max-num-batched-tokens": str(point.chunk),
        "--output": str(folder / "requests.csv"),
        "--summary-json": str(folder / "summary.json"),
    }
    if point.logged:
        flags["--iteration-log"] = str(folder / "iterations.csv")
    words = [word for flag, value in flags.items() if value for word in (flag, value)]
    return simulator(*words, *(["--wait-ledger"] if point.logged else []))

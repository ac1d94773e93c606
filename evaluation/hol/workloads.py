"""Workload files of a sweep, at the load that was asked for on the cluster that will serve them."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from dataset.research_hol_blocking import generate
from dataset.research_hol_blocking.kinds import KINDS
from evaluation.hol.plan import CONFIGS, WorkloadSpec
from inference_serving.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
_PROBES = 512
_DRAWS = 200_000
_NS_PER_MS = 1e6


def simulator(*flags: str) -> list[str]:
    """Command line of a run of the simulator with flags that every evaluation uses."""
    run = [sys.executable, str(ROOT / "main.py"), "--num-req", "1000000000", "--log-interval", "1000000000"]
    return [*run, "--latency-source", "calibrated", *flags]


class Workloads:
    """Workload files in a folder, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._means_ms: dict[tuple[str, str], float] = {}

    def file(self, spec: WorkloadSpec, cluster: str) -> Path:
        """The workload for a cluster; raises InputError if it cannot be made."""
        if spec.is_file:
            return Path(spec.kind)
        instances = entry_instances(cluster)
        count = f"n{spec.requests}" if spec.requests else "phases"
        mean_ms = self.isolated_mean_ms(spec.kind, cluster)
        text = (
            f"{spec.kind}_{spec.load}_{spec.arrivals}_{count}_s{spec.seed}_x{instances}_{mean_ms:.4f}ms.jsonl"
        )
        file = self._folder / text.replace(":", "-").replace(",", "+")
        if not file.exists():
            command = [spec.kind, "--load", spec.load, "--isolated-mean-ms", f"{mean_ms:.4f}"]
            command += ["--instances", str(instances), "--arrivals", spec.arrivals, "--seed", str(spec.seed)]
            command += ["--output", str(file)]
            command += ["--requests", str(spec.requests)] if spec.requests else []
            if generate.main(command) != 0:
                raise InputError(file, "", "the generator failed; see above")
        return file

    def isolated_mean_ms(self, kind: str, cluster: str) -> float:
        """Mean prefill time, each alone, of the stream of a kind of workload on a cluster's prefill instances.

        Measured by one run of requests that never meet: 512 evenly drawn shorts and one long of each length,
        weighted with their shares.
        """
        if (kind, cluster) not in self._means_ms:
            self._means_ms[kind, cluster] = self._stored_mean_ms(kind, cluster)
        return self._means_ms[kind, cluster]

    def _stored_mean_ms(self, kind: str, cluster: str) -> float:
        file = self._folder / f"isolated_{kind}_{cluster}_{sources_hash()}.json"
        if not file.exists():
            write_whole(file, json.dumps({"isolated_mean_ms": _measure_ms(kind, cluster)}) + "\n")
        return float(json.loads(file.read_text())["isolated_mean_ms"])


def entry_instances(cluster: str) -> int:
    """Prefill (or colocated) instances of a cluster config."""
    nodes = json.loads((CONFIGS / f"{cluster}.json").read_text())["nodes"]
    roles = [one.get("pd_type") for node in nodes for one in node["instances"]]
    return sum(role != "decode" for role in roles)


@cache
def sources_hash() -> str:
    """A hash of the simulator, so that results of two versions can be told apart."""
    digest = hashlib.sha256()
    for folder in ("inference_serving", "llm_profile", "dataset", "astra-sim/src"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".yaml", ".cc", ".h"):
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _measure_ms(kind: str, cluster: str) -> float:
    chosen = KINDS[kind]
    rng = np.random.default_rng(0)
    share = float(chosen.is_long(rng, _DRAWS).mean())
    shorts = (
        np.quantile(chosen.short_input(rng, _DRAWS), (np.arange(_PROBES) + 0.5) / _PROBES)
        .astype(int)
        .tolist()
    )
    lengths, counts = np.unique(chosen.long_input(rng, _DRAWS), return_counts=True)
    times_ms = _alone_ms(cluster, [*shorts, *lengths.tolist()])
    long_ms = float(np.average(times_ms[_PROBES:], weights=counts))
    return (1 - share) * float(np.mean(times_ms[:_PROBES])) + share * long_ms


def _alone_ms(cluster: str, prompts: Sequence[int]) -> list[float]:
    """Isolated prefill times, as the simulator's CSV gives them, of prompts that come 100 s apart."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, output = Path(folder) / "alone.jsonl", Path(folder) / "alone.csv"
        lines = (
            {"input_toks": prompt, "output_toks": 1, "arrival_time_ns": index * 10**11}
            for index, prompt in enumerate(prompts)
        )
        dataset.write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = str(CONFIGS / f"{cluster}.json")
        command = simulator("--cluster-config", config, "--dataset", str(dataset), "--output", str(output))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(
                Path(config), "", f"the run that measures lone prompts failed: {done.stderr.strip()}"
            )
        with output.open(newline="") as rows:
            return [int(row["isolated_prefill"]) / _NS_PER_MS for row in csv.DictReader(rows)]

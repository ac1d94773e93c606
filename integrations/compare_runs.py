"""Recorded runs of a real engine under several policies, against each other and against the simulator.

``python -m integrations.compare_runs FOLDER`` reads every ``POLICY-sSEED`` run in a folder, simulates its arrivals
under its settings, and prints tables in Markdown: TTFT of short and long prompts, the ratio of policies as
measured and as predicted, and what tells whether the runs were disturbed.

A prediction is made twice: with the card's description as it is, and at the speed that the machine had
during the run (measured over predicted time of the recorded batches).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from inference_serving.files import write_whole
from inference_serving.validation.readers import read_run, read_simulation
from inference_serving.validation.readers.base import records
from inference_serving.validation.run import Run
from inference_serving.validation.simulate import SimulationFiles, simulate, workload_text
from llm_profile.calibrate_runs import Iteration
from llm_profile.iteration_time import iteration_ns
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.model_config import ModelConfig

Floats = NDArray[np.float64]
SHORT_TOKENS = 512
"""Prompts up to this length are short ones."""
WAYS = ("measured", "predicted", "at speed")


@dataclass(frozen=True)
class Times:
    """TTFT of the short and of the long prompts of one run, TPOT and latency of all requests; s."""

    short: Floats
    long: Floats
    tpot: Floats
    latency: Floats

    @staticmethod
    def of(run: Run, scale: float = 1.0) -> Times:
        """Split a run's requests; ``scale`` turns its clock into the machine's."""
        ttft = np.array([one.ttft_ns for one in run.requests]) * scale / 1e9
        is_short = np.array([one.prompt_tokens for one in run.requests]) <= SHORT_TOKENS
        tpot = [one.tpot_ns for one in run.requests if one.tpot_ns is not None]
        latency = np.array([one.latency_ns for one in run.requests])
        return Times(ttft[is_short], ttft[~is_short], np.array(tpot) * scale / 1e9, latency * scale / 1e9)

    @staticmethod
    def pooled(many: Iterable[Times]) -> Times:
        """All requests of several runs."""
        runs = list(many)
        parts = zip(*((one.short, one.long, one.tpot, one.latency) for one in runs), strict=True)
        return Times(*(np.concatenate(part) for part in parts))


@dataclass(frozen=True)
class Compared:
    """One recorded run: its times by :data:`WAYS`, its iterations, and the first token of each request."""

    policy: str
    seed: int
    times: dict[str, Times]
    speed: float
    events: list[dict[str, Any]]
    late_s: float
    first_tokens: list[int]


def compare(requests_file: Path) -> Compared:
    """Read one run and simulate it twice; raises InputError for a file that is no such recording."""
    policy, _, seed = requests_file.name.removesuffix(".reqs.jsonl.gz").rpartition("-s")
    iterations_file = requests_file.with_name(requests_file.name.replace(".reqs.", ".iters."))
    real = read_run(requests_file)
    (_, first), *rest = records(requests_file)
    events = [event for _, event in records(iterations_file) if event.get("ev") == "it"]
    try:
        meta = first["meta"]
        speed = _speed(meta, events)
        times = {
            "measured": Times.of(real),
            "predicted": _simulated(real, meta, 1.0),
            "at speed": _simulated(real, meta, speed),
        }
        late_s = max(float(one["late"]) for _, one in rest)
        tokens = [int(one["tok0"]) for _, one in rest]
        return Compared(policy, int(seed), times, speed, events, late_s, tokens)
    except KeyError as error:
        raise InputError(requests_file, str(error.args[0]), "is missing, here or in the iterations") from None


def _speed(meta: dict[str, Any], events: list[dict[str, Any]]) -> float:
    """Measured over predicted time of the batches that ran."""
    model = ModelConfig.model_validate({"name": "model", **meta["model"]})
    latency = open_latency_model(LatencyQuery(meta["hardware"], model, 1, packed_decode=True), "calibrated")
    batches = [Iteration(event) for event in events]
    predicted_ns = sum(
        iteration_ns(latency, model, one.prefill_q, one.prefill_context, one.decode_kv) for one in batches
    )
    return sum(one.ns for one in batches) / predicted_ns


def _simulated(real: Run, meta: dict[str, Any], speed: float) -> Times:
    """Simulate a run's arrivals on its card, on a machine that takes ``speed`` times as long for everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, cluster, workload = (folder / one for one in ("model.json", "cluster.json", "workload.jsonl"))
        write_whole(model, json.dumps(meta["model"]))
        write_whole(cluster, json.dumps(_cluster(str(model), meta["hardware"])))
        write_whole(workload, _stretched(workload_text(real), 1 / speed))
        files = SimulationFiles(folder / "out.csv", folder / "out.json")
        flags = [
            "--cluster-config",
            str(cluster),
            "--dataset",
            str(workload),
            "--latency-source",
            "calibrated",
        ]
        flags += ["--num-gpu-blocks-override", str(real.kv_blocks)] if real.kv_blocks else []
        simulate(real, flags, files, folder)
        return Times.of(read_simulation(files.csv), speed)


def _cluster(model: str, hardware: str) -> dict[str, Any]:
    instance = {
        "model_name": model,
        "hardware": hardware,
        "npu_mem": {"mem_size": 24, "mem_bw": 25.6},
        "npu_num": 1,
    }
    node = {"num_instances": 1, "cpu_mem": {"mem_size": 16, "mem_bw": 256}, "instances": [instance]}
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 0, "nodes": [node]}


def _stretched(workload: str, factor: float) -> str:
    lines = []
    for record in map(json.loads, workload.splitlines()):
        lines.append(json.dumps(record | {"arrival_time_ns": round(record["arrival_time_ns"] * factor)}))
    return "\n".join(lines) + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def _table(*head: str) -> list[str]:
    return ["", _row(*head), "|" + "---|" * len(head)]


def ttft_table(runs: list[Compared]) -> list[str]:
    """TTFT and mean latency in s, mean TPOT in ms, a run a line; then all seeds of a policy pooled."""
    head = ("short mean", "short p50", "short p99", "long mean", "long max", "TPOT ms", "latency")
    lines = _table("run", "times", *head)
    for run in runs:
        lines += [_row(f"{run.policy}-s{run.seed}", way, *_numbers(run.times[way])) for way in WAYS]
    for policy in sorted({run.policy for run in runs}):
        for way in WAYS:
            times = Times.pooled(run.times[way] for run in runs if run.policy == policy)
            lines.append(_row(f"{policy}, pooled", way, *_numbers(times)))
    return lines


def _numbers(times: Times) -> list[object]:
    short, long = times.short, times.long
    longs = [float(long.mean()), float(long.max())] if long.size else ["", ""]
    tpot_ms = f"{times.tpot.mean() * 1e3:.2f}" if times.tpot.size else ""
    shorts = [float(short.mean()), *np.percentile(short, [50, 99]).tolist()]
    return [*shorts, *longs, tpot_ms, float(times.latency.mean())]


def ratio_table(runs: list[Compared], ours: str, other: str) -> list[str]:
    """Short TTFT under ``ours`` over that under ``other``, a seed a line, then all seeds pooled."""
    lines = _table(f"{ours} / {other}", "short TTFT", *WAYS, "predicted / measured", "at speed / measured")
    seeds_of = [{run.seed for run in runs if run.policy == policy} for policy in (ours, other)]
    seeds = sorted(set.intersection(*seeds_of))
    groups = [(f"seed {seed}", [seed]) for seed in seeds] + ([("pooled", seeds)] if seeds else [])
    for label, chosen in groups:
        for name in ("mean", "p99"):
            ratios = [_statistic(runs, ours, chosen, way, name) for way in WAYS]
            ratios = [
                one / _statistic(runs, other, chosen, way, name)
                for one, way in zip(ratios, WAYS, strict=True)
            ]
            lines.append(_row(label, name, *ratios, ratios[1] / ratios[0], ratios[2] / ratios[0]))
    return lines


def _statistic(runs: list[Compared], policy: str, seeds: list[int], way: str, name: str) -> float:
    short = Times.pooled(run.times[way] for run in runs if run.policy == policy and run.seed in seeds).short
    return float(short.mean() if name == "mean" else np.percentile(short, 99))


def disturbance_table(runs: list[Compared]) -> list[str]:
    """What tells whether a run was disturbed, and what a policy costs."""
    lines = _table(
        "run",
        "iterations",
        "speed",
        "run-queue wait s",
        "late ms",
        "policy us p50",
        "p99",
        "first tokens as fcfs",
    )
    first_tokens = {run.seed: run.first_tokens for run in runs if run.policy == "fcfs"}
    for run in runs:
        policy_us = np.percentile([event["pol"] * 1e6 for event in run.events], [50, 99])
        same = np.equal(run.first_tokens, first_tokens.get(run.seed, run.first_tokens))
        waited_s = sum(event["rq"] for event in run.events)
        lines.append(
            _row(
                f"{run.policy}-s{run.seed}",
                len(run.events),
                run.speed,
                waited_s,
                run.late_s * 1e3,
                *(round(one) for one in policy_us),
                f"{int(same.sum())} / {same.size}",
            )
        )
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m integrations.compare_runs", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ours", default="bo", help="the policy that is compared with all others")
    args = parser.parse_args(argv)
    files = sorted(args.folder.glob("*-s*.reqs.jsonl.gz"))
    try:
        if not files:
            raise InputError(args.folder, "", "has no runs, POLICY-sSEED.reqs.jsonl.gz")
        runs = [compare(file) for file in files]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    others = sorted({run.policy for run in runs} - {args.ours})
    lines = ttft_table(runs) + [line for other in others for line in ratio_table(runs, args.ours, other)]
    print("\n".join(lines + disturbance_table(runs)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Run the simulator's command line on the workload of a real run."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.cli import main as simulator
from inference_serving.files import write_whole
from inference_serving.validation.run import Run

_NEVER_S = "1000000000"


@dataclass(frozen=True)
class SimulationFiles:
    """What a simulation has written."""

    csv: Path
    summary: Path


class SimulationFailedError(Exception):
    """The simulator ended with another exit code than 0; it has said why."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"the simulation ended with exit code {code}")


def simulate(run: Run, flags: Sequence[str], files: SimulationFiles, folder: Path) -> str:
    """Simulate the workload of ``run`` (or the ``--dataset`` among ``flags``); returns the flags used.

    The settings that the run states come first, so that ``flags`` override them.
    """
    argv = [*run.flags, *flags]
    if not any(flag == "--dataset" or flag.startswith("--dataset=") for flag in flags):
        workload = folder / "workload.jsonl"
        write_whole(workload, workload_text(run))
        argv += ["--dataset", str(workload)]
    if not any(flag == "--num-req" or flag.startswith("--num-req=") for flag in flags):
        argv += ["--num-req", str(10**9)]
    argv += ["--log-interval", _NEVER_S, "--output", str(files.csv), "--summary-json", str(files.summary)]
    with contextlib.redirect_stdout(io.StringIO()):
        code = simulator(argv)
    if code:
        raise SimulationFailedError(code)
    return " ".join([*run.flags, *flags])


def workload_text(run: Run) -> str:
    """The workload that a run has served, in the simulator's format; raises InputError if it is unknown."""
    if not run.requests:
        raise InputError(
            run.file, "", "is a throughput series, which has no workload; give it with --dataset FILE"
        )
    if not run.arrivals_known:
        raise InputError(
            run.file,
            "start_times",
            "arrival times are unknown; give the workload with --dataset FILE, or record with a newer vLLM",
        )
    lines = []
    for one in sorted(run.requests, key=lambda request: request.arrival_ns):
        record = {
            "input_toks": one.prompt_tokens,
            "output_toks": one.output_tokens,
            "arrival_time_ns": one.arrival_ns,
        }
        lines.append(json.dumps(record | ({"priority": one.priority} if one.priority else {})))
    return "\n".join(lines) + "\n"

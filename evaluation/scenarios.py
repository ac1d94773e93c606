"""Runs a figure's scenarios, each as a process of ``main.py``; one that fails does not stop the others."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.inputs import ROOT, Inputs
from evaluation.token_ids import workload_with_ids
from inference_serving.validation.readers import read_run

_INTERVAL_S = "1"
_LATENCIES = ("--latency-source", "calibrated")  # whatever else is installed where the figures are made


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run of the simulator.

    ``config`` is a cluster config; ``flags`` go to ``main.py``; ``needs_token_ids`` gives a workload of the
    project's own token ids; ``has_power`` and ``has_memory`` ask for a power series and for one of memory and
    prefix hits; ``settings_of`` is a real run (a file of the reference folder) whose settings it takes, without
    which it is skipped; ``waits_for`` names what the simulator does not have yet, which skips it too.
    """

    name: str
    config: Path
    workload: str
    flags: tuple[str, ...] = ()
    needs_token_ids: bool = False
    has_power: bool = False
    has_memory: bool = False
    settings_of: str = ""
    waits_for: str = ""

    @property
    def stem(self) -> str:
        """How its files are named."""
        return self.name.replace(" ", "_")


@dataclass(frozen=True, slots=True)
class ScenarioFiles:
    """What one scenario writes below a figure's folder."""

    folder: Path
    stem: str

    @property
    def log(self) -> Path:
        """Everything that the simulator printed."""
        return self.folder / "logs" / f"{self.stem}.log"

    @property
    def csv(self) -> Path:
        """A line a request."""
        return self.folder / "results" / f"{self.stem}.csv"

    @property
    def summary(self) -> Path:
        """The summary as JSON."""
        return self.folder / "results" / f"{self.stem}.json"

    @property
    def power(self) -> Path:
        """The power series, for scenarios that have one."""
        return self.folder / "results" / f"{self.stem}_power.tsv"

    @property
    def memory(self) -> Path:
        """The series of memory and prefix hits, for scenarios that have one."""
        return self.folder / "results" / f"{self.stem}_memory.tsv"

    @property
    def workload(self) -> Path:
        """A workload that was given token ids."""
        return self.folder / "results" / f"{self.stem}_workload.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one scenario ended: ``ok``, ``failed`` or ``skipped``; why; and the seconds of its process."""

    scenario: Scenario
    files: ScenarioFiles
    status: str
    why: str = ""
    wall_s: float = 0.0


def run_scenarios(scenarios: Sequence[Scenario], folder: Path, inputs: Inputs) -> list[Outcome]:
    """Run all, ``inputs.processes`` at a time, and print each as it ends; returns them in the given order."""
    for part in ("logs", "results", "parsed"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(inputs.processes) as pool:
        tasks = [pool.submit(_outcome, scenario, folder, inputs) for scenario in scenarios]
        for done, task in enumerate(as_completed(tasks), 1):
            one = task.result()
            outcomes[one.scenario.name] = one
            how = f"{one.wall_s:.1f} s" if one.status == "ok" else f"{one.status.upper()}: {one.why}"
            print(f"  [{done}/{len(tasks)}] {one.scenario.name}: {how}", flush=True)
    return [outcomes[scenario.name] for scenario in scenarios]


def _outcome(scenario: Scenario, folder: Path, inputs: Inputs) -> Outcome:
    files = ScenarioFiles(folder, scenario.stem)
    for old in (files.log, files.csv, files.summary, files.power, files.memory):
        old.unlink(missing_ok=True)  # a failure must not leave the results of an earlier run
    if scenario.waits_for:
        return Outcome(scenario, files, "skipped", f"{scenario.waits_for}: not there yet")
    if scenario.settings_of and inputs.real(scenario.settings_of) is None:
        return Outcome(scenario, files, "skipped", f"the real run {scenario.settings_of} is not at hand")
    begin = time.perf_counter()
    try:
        why = _run(scenario, files, inputs)
    except (InputError, OSError) as error:
        why = str(error)
    wall_s = time.perf_counter() - begin
    return Outcome(scenario, files, "failed" if why else "ok", why, wall_s)


def _run(scenario: Scenario, files: ScenarioFiles, inputs: Inputs) -> str:
    """Run the simulator; returns why it failed, or nothing."""
    command = [sys.executable, str(ROOT / "main.py"), *_arguments(scenario, files, inputs)]
    begin = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    took = f"=== Simulation Results ===\nSimulation time (s): {time.perf_counter() - begin:.3f}\n"
    files.log.write_text(ended.stdout + took + ended.stderr, encoding="utf-8")
    if ended.returncode == 0:
        return ""
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
    return f"exit code {ended.returncode}: {last} (see {files.log})"


def _arguments(scenario: Scenario, files: ScenarioFiles, inputs: Inputs) -> list[str]:
    workload = inputs.workload(scenario.workload)
    if scenario.needs_token_ids and inputs.dataset_dir is None:
        workload = workload_with_ids(workload, files.workload)
    real = inputs.real(scenario.settings_of) if scenario.settings_of else None
    return [
        *("--cluster-config", str(scenario.config), "--dataset", str(workload), "--num-req", str(10**9)),
        *("--output", str(files.csv), "--summary-json", str(files.summary), "--log-interval", _INTERVAL_S),
        *(("--power-series", str(files.power)) if scenario.has_power else ()),
        *(("--memory-series", str(files.memory)) if scenario.has_memory else ()),
        *(() if real is None else read_run(real).flags),
        *_LATENCIES,
        *scenario.flags,
    ]

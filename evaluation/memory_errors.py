"""Memory and prefix hits of a simulation against measured ones, state by state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from evaluation.parser.memory import memory_columns
from evaluation.real_systems import Error
from inference_serving.validation.readers.series_table import common_step, read_columns
from inference_serving.validation.run import FloatArray

MEMORY, HITS = "NPU memory, mean absolute", "prefix hit rate, mean absolute"
"""The errors of a scenario: means over its instances, in % of the real mean, and in points."""
OWN_MEMORY = "memory, mean absolute"
"""That of one instance or pool, which comes before it with a colon."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured file of one instance or pool: its name in the simulation, and its columns of memory and of hits."""

    name: str
    file: Path
    memory_column: str = "gpu_mem_mb"
    hits_column: str = "prefix_hit_pct"

    def columns(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Times in s, MiB, and %; raises InputError for a file that is no such series."""
        times_s, memory_mb, hits_percent = read_columns(
            self.file, ("time_s", self.memory_column, self.hits_column)
        )
        common_step(self.file, "time_s", times_s)
        return times_s, memory_mb, hits_percent


def memory_errors(
    scenario: str, instances: Sequence[Measured], pools: Sequence[Measured], series_file: Path
) -> list[Error]:
    """Errors of each instance and pool, and of the scenario: the means over its instances."""
    of_instances = [_errors(scenario, one, series_file) for one in instances]
    overall = [
        Error(scenario, name, float(np.mean([found[place].percent for found in of_instances])), unit=unit)
        for place, (name, unit) in enumerate(((MEMORY, "%"), (HITS, "points")))
        if of_instances
    ]
    parts = [*of_instances, *(_errors(scenario, one, series_file) for one in pools)]
    return overall + [error for found in parts for error in found]


def _errors(scenario: str, measured: Measured, series_file: Path) -> list[Error]:
    """Mean absolute errors of memory and hits, and the errors of both at the end."""
    _, columns = memory_columns(series_file, "")
    name = measured.name
    wanted = (f"{name}_mem_mb", f"{name}_npu_mem_mb"), (f"{name}_prefix_hit_pct",)
    ours = [next((columns[one] for one in names if one in columns), None) for names in wanted]
    memory, hits = ours
    if memory is None or hits is None:
        raise InputError(series_file, "line 1", f"has no columns of {name}")
    _, real_memory, real_hits = measured.columns()
    off_mb, off_points = _mean_absolute(real_memory, memory), _mean_absolute(real_hits, hits)
    off_at_end = 100 * float(memory[-1] / real_memory[-1] - 1)
    return [
        Error(scenario, f"{name}: {OWN_MEMORY}", 100 * off_mb / float(real_memory.mean())),
        Error(scenario, f"{name}: {HITS}", off_points, unit="points"),
        Error(
            scenario,
            f"{name}: memory at the end (MiB)",
            off_at_end,
            float(real_memory[-1]),
            float(memory[-1]),
        ),
        Error(
            scenario,
            f"{name}: prefix hit rate at the end (%)",
            float(hits[-1] - real_hits[-1]),
            float(real_hits[-1]),
            float(hits[-1]),
            unit="points",
        ),
    ]


def _mean_absolute(real: FloatArray, simulated: FloatArray) -> float:
    """Mean absolute difference, sample by sample; who is done first keeps its last state.

    The first sample of either is what was reached within the first interval.
    """
    length = max(len(real), len(simulated))
    left, right = (np.pad(one, (0, length - len(one)), mode="edge") for one in (real, simulated))
    return float(np.abs(right - left).mean())

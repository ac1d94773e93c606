"""The formats of runs. A new one is a file with a ``READER`` here, and its place in ``READERS``."""

from __future__ import annotations

from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.validation.readers import (
    bench_folder,
    series_table,
    simulation_csv,
    vllm_bench,
    vllm_cpu,
)
from inference_serving.validation.readers.base import head_of
from inference_serving.validation.run import Run

READERS = (
    bench_folder.READER,
    vllm_bench.READER,
    vllm_cpu.READER,
    series_table.READER,
    simulation_csv.READER,
)


def read_run(place: Path) -> Run:
    """Read a run, whatever its format; a folder stands for the ``requests.jsonl`` in it."""
    file = place / "requests.jsonl" if place.is_dir() else place
    head = head_of(file)
    for reader in READERS:
        if reader.recognises(head):
            return reader.read(file)
    known = "; ".join(f"{reader.name}: {reader.what}" for reader in READERS)
    raise InputError(file, "", f"is not a run in any known format ({known})")


def read_simulation(file: Path) -> Run:
    """Read the CSV of a simulation, and nothing else."""
    return simulation_csv.READER.read(file)

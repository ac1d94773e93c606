"""Figures that others have published, cited as facts: ``published.tsv``, a source a line.

Errors are absolute, in % against a real vLLM; an empty cell is a number that is not known here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

ORIGINAL = "LLMServingSim 2.0"
SOURCE = "LLMServingSim 2.0, ISPASS 2026"
METRICS = {
    "throughput": "throughput_error_percent",
    "mean TTFT": "ttft_error_percent",
    "mean TPOT": "tpot_error_percent",
}
TIME = "simulation_time_s"
_FILE = Path(__file__).with_suffix(".tsv")
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Published:
    """One line: lowest and highest published number by column; a column that is not known is left out."""

    simulator: str
    scenario: str
    values: dict[str, Range]
    source: str


def read_published(file: Path = _FILE) -> tuple[Published, ...]:
    """All lines of the table; ``3.9-5.0`` is a range."""
    with file.open(encoding="utf-8", newline="") as table:
        return tuple(_line(cells) for cells in csv.DictReader(table, delimiter="\t"))


def _line(cells: dict[str, str]) -> Published:
    known = {name: _range(cells[name]) for name in (*METRICS.values(), TIME) if cells[name]}
    return Published(cells["simulator"], cells["scenario"], known, cells["source"])


def _range(text: str) -> Range:
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def _errors_of_original() -> dict[str, dict[str, float]]:
    errors = {
        one.scenario: {
            metric: one.values[column][0] for metric, column in METRICS.items() if column in one.values
        }
        for one in read_published()
        if one.simulator == ORIGINAL
    }
    return {scenario: known for scenario, known in errors.items() if known}


ABSOLUTE_ERRORS_PERCENT = _errors_of_original()
"""Those of LLMServingSim 2.0 against real systems, by scenario and metric; only absolute values were published."""

"""Parsed results: one number a line, as TSV ``scenario metric time_s value``.

``time_s`` is the end of an interval of a series, and empty for a number of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.files import write_whole
from inference_serving.validation.run import FloatArray

_HEADER = "scenario\tmetric\ttime_s\tvalue"
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one scenario; its metric ends in its unit."""

    scenario: str
    metric: str
    value: float
    time_s: str = ""

    @property
    def key(self) -> Key:
        """What it is a value of."""
        return self.scenario, self.metric, self.time_s


def series_rows(scenario: str, metric: str, ends_s: FloatArray, values: FloatArray) -> list[Row]:
    """A row for each interval of a series."""
    return [
        Row(scenario, metric, float(value), f"{end:g}") for end, value in zip(ends_s, values, strict=True)
    ]


def interval_rows(
    scenario: str, metric: str, intervals: Iterable[tuple[float, Mapping[str, float]]], name: str
) -> list[Row]:
    """A row for each interval, given by its end in s and its values by name, that has a value ``name``."""
    return [Row(scenario, metric, facts[name], f"{end:g}") for end, facts in intervals if name in facts]


def series_in(rows: Iterable[Row], scenario: str, metric: str) -> tuple[FloatArray, FloatArray]:
    """The ends of a series' intervals in s and its values; empty arrays if it is not among ``rows``."""
    found = [row for row in rows if (row.scenario, row.metric) == (scenario, metric) and row.time_s]
    return np.array([float(row.time_s) for row in found]), np.array([row.value for row in found])


def value_in(rows: Iterable[Row], scenario: str, metric: str) -> float | None:
    """A number of the whole run; None if it is not among ``rows``."""
    return next((row.value for row in rows if row.key == (scenario, metric, "")), None)


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write rows with seven digits, which is more than any tolerance and less than a platform's rounding."""
    write_whole(file, rows_text(rows))


def rows_text(rows: Sequence[Row]) -> str:
    """What ``write_rows`` writes."""
    lines = [f"{one.scenario}\t{one.metric}\t{one.time_s}\t{one.value:.7g}" for one in rows]
    return "\n".join([_HEADER, *lines]) + "\n"


def read_rows(file: Path) -> list[Row]:
    """Read what ``write_rows`` wrote; raises InputError naming the line."""
    try:
        header, *lines = file.read_text(encoding="utf-8").splitlines() or [""]
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from error
    if header != _HEADER:
        raise InputError(file, "line 1", f"must be {_HEADER.replace(chr(9), ' ')}, separated by tabs")
    return [_row(file, number, line) for number, line in enumerate(lines, 2)]


def _row(file: Path, number: int, line: str) -> Row:
    cells = line.split("\t")
    try:
        scenario, metric, time_s, value = cells
        return Row(scenario, metric, float(value), time_s)
    except ValueError:
        raise InputError(
            file, f"line {number}", "must be scenario, metric, time and a number, separated by tabs"
        ) from None

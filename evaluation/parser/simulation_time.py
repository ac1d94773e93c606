"""How long the simulator itself took."""

from __future__ import annotations

import csv
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.parser.summary import is_log, number, read_summary
from evaluation.rows import Row

METRIC = "simulation_time_s"


def simulation_time_rows(scenario: str, file: Path) -> list[Row]:
    """Seconds of the process, from a log or from a figure's ``_runtime.tsv`` (columns ``scenario``, ``wall_s``)."""
    if is_log(file):
        return [Row(scenario, METRIC, number(file, read_summary(file), METRIC))]
    try:
        with file.open(encoding="utf-8", newline="") as table:
            for line in csv.DictReader(table, delimiter="\t"):
                if line.get("scenario") == scenario:
                    return [Row(scenario, METRIC, float(line["wall_s"]))]
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from error
    except (KeyError, ValueError):
        raise InputError(file, scenario, "must have a number in column wall_s") from None
    raise InputError(file, "scenario", f"has no line of {scenario}")

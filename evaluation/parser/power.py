"""Power of all nodes over time, and energy."""

from __future__ import annotations

from pathlib import Path

from evaluation.parser.energy_per_token import energy_per_token_rows
from evaluation.parser.log import read_log
from evaluation.parser.summary import number, read_summary
from evaluation.rows import Row, interval_rows, series_rows
from inference_serving.validation.readers.series_table import read_columns

SERIES = "power_w"


def power_rows(scenario: str, summary_file: Path, power_file: Path | None = None) -> list[Row]:
    """Energy in all and per generated token, mean and highest power, and the mean power of each interval."""
    summary = read_summary(summary_file)

    def of(name: str) -> float:
        return number(summary_file, summary, "power", name)

    rows = [
        Row(scenario, "energy_kj", of("energy_j") / 1e3),
        Row(scenario, "mean_power_w", of("mean_power_w")),
        Row(scenario, "peak_power_w", of("peak_interval_power_w")),
        *energy_per_token_rows(scenario, summary_file),
    ]
    if power_file is not None:
        rows += series_rows(scenario, SERIES, *read_columns(power_file, ("time_s", SERIES)))
    return rows


def logged_power_rows(scenario: str, log: Path) -> list[Row]:
    """The mean power of each interval of a log."""
    return interval_rows(scenario, SERIES, read_log(log).intervals, "power")

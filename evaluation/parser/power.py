"""Power of all nodes over time, and energy."""

from __future__ import annotations

from pathlib import Path

from evaluation.parser.summary import number, read_summary
from evaluation.rows import Row, series_rows
from inference_serving.validation.readers.series_table import read_columns

SERIES = "power_w"


def power_rows(scenario: str, summary_file: Path, power_file: Path) -> list[Row]:
    """Energy in all and per generated token, mean and highest power, and the mean power of each interval."""
    summary = read_summary(summary_file)

    def of(name: str) -> float:
        return number(summary_file, summary, "power", name)

    ends_s, power_w = read_columns(power_file, ("time_s", SERIES))
    return [
        Row(scenario, "energy_kj", of("energy_j") / 1e3),
        Row(scenario, "mean_power_w", of("mean_power_w")),
        Row(scenario, "peak_power_w", of("peak_interval_power_w")),
        Row(scenario, "energy_per_token_j", of("energy_per_generated_token_j")),
        *series_rows(scenario, SERIES, ends_s, power_w),
    ]

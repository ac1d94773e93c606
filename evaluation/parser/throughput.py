"""Requests, tokens, and tokens a second, of the whole run and over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.parser.log import read_log
from evaluation.parser.summary import number, read_summary
from evaluation.rows import Row, interval_rows, series_rows
from inference_serving.validation.readers import read_simulation
from inference_serving.validation.series import series_of

SERIES = "throughput_tok_s"
_NS_PER_S = 1e9


def throughput_rows(scenario: str, summary_file: Path, csv: Path | None = None) -> list[Row]:
    """Totals from the summary, and the series of generated tokens from the times of all tokens in the CSV."""
    summary = read_summary(summary_file)

    def of(*path: str) -> float:
        return number(summary_file, summary, *path)

    rows = [
        Row(scenario, "requests", of("requests", "finished")),
        Row(scenario, "prompt_tokens", of("tokens", "prompt")),
        Row(scenario, "generated_tokens", of("tokens", "generated")),
        Row(scenario, "makespan_s", of("makespan_ns") / _NS_PER_S),
        Row(scenario, "mean_throughput_tok_s", of("throughput_per_s", "generated_tokens")),
    ]
    series = None if csv is None else series_of(read_simulation(csv).requests)
    if series is not None:
        ends_s = np.arange(1, series.generated.size + 1, dtype=np.float64) * series.step_s
        rows += series_rows(scenario, SERIES, ends_s, series.generated)
    return rows


def logged_throughput_rows(scenario: str, log: Path) -> list[Row]:
    """The series as a log has it: intervals in which nothing was generated may be absent."""
    return interval_rows(scenario, SERIES, read_log(log).intervals, "generation throughput")

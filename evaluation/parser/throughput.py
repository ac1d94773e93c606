"""Requests, tokens, and tokens a second, of the whole run and in intervals of 1 s."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.parser.summary import number, read_summary
from evaluation.rows import Row, series_rows
from inference_serving.validation.readers import read_simulation
from inference_serving.validation.series import series_of

SERIES = "throughput_tok_s"
_NS_PER_S = 1e9


def throughput_rows(scenario: str, summary_file: Path, csv: Path) -> list[Row]:
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
    series = series_of(read_simulation(csv).requests)
    if series is not None:
        ends_s = np.arange(1, series.generated.size + 1, dtype=np.float64) * series.step_s
        rows += series_rows(scenario, SERIES, ends_s, series.generated)
    return rows


def prefix_rows(scenario: str, summary_file: Path) -> list[Row]:
    """The share of prompt tokens found in the prefix caches, in %; nothing for runs without caches."""
    caches = [one.get("prefix_cache") for one in read_summary(summary_file).get("instances", [])]
    queried = sum(one["queried_tokens"] for one in caches if one)
    hits = sum(one["hit_tokens"] for one in caches if one)
    return [Row(scenario, "prefix_hit_percent", 100 * hits / queried)] if queried else []

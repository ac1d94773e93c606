"""TTFT, TPOT, ITL and latency."""

from __future__ import annotations

from pathlib import Path

from evaluation.parser.summary import is_log, number, read_summary
from evaluation.rows import Row

_LATENCIES = ("ttft", "tpot", "itl", "latency")
_STATISTICS = ("mean", "median", "p99")


def latency_rows(scenario: str, summary_file: Path) -> list[Row]:
    """Mean, median and 99th percentile of each, over all instances, in ms; of a log, those that it tells."""
    summary = read_summary(summary_file)
    return [
        Row(
            scenario,
            f"{statistic}_{latency}_ms",
            number(summary_file, summary, "latency_ms", latency, statistic),
        )
        for latency in _LATENCIES
        for statistic in _STATISTICS
        if not (is_log(summary_file) and summary["latency_ms"][latency][statistic] is None)
    ]

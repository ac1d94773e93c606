"""Prefix hits: the share of prompt tokens found in the NPUs' caches and in the second tier."""

from __future__ import annotations

from pathlib import Path

from evaluation.parser.log import read_log
from evaluation.parser.memory import memory_columns
from evaluation.parser.summary import is_log, number, read_summary
from evaluation.rows import Row, interval_rows, series_rows

SUFFIX = "_prefix_hit_pct"
_TOTALS = (("prefix_cache", "prefix_hit_percent"), ("prefix_storage", "storage_hit_percent"))


def hit_rate_rows(scenario: str, summary_file: Path) -> list[Row]:
    """The shares over all instances in %, of the NPUs' caches and of the second tier; nothing for runs without."""
    summary = read_summary(summary_file)
    if is_log(summary_file):
        known = [name for _, name in _TOTALS if summary[name] is not None]
        return [Row(scenario, name, number(summary_file, summary, name)) for name in known]
    rows = []
    for place, name in _TOTALS:
        caches = [one.get(place) for one in summary.get("instances", [])]
        queried = sum(one["queried_tokens"] for one in caches if one)
        hits = sum(one["hit_tokens"] for one in caches if one)
        rows += [Row(scenario, name, 100 * hits / queried)] if queried else []
    return rows


def hit_rate_series_rows(scenario: str, memory_file: Path) -> list[Row]:
    """Of each instance and pool the share found so far, by interval, from a file of ``--memory-series``."""
    ends_s, columns = memory_columns(memory_file, SUFFIX)
    return [row for name, values in columns.items() for row in series_rows(scenario, name, ends_s, values)]


def logged_hit_rate_rows(scenario: str, log: Path) -> list[Row]:
    """The shares of all instances together, by interval of a log."""
    intervals = read_log(log).intervals
    return [
        *interval_rows(scenario, f"all{SUFFIX}", intervals, "prefix hits"),
        *interval_rows(scenario, f"all_storage{SUFFIX}", intervals, "storage hits"),
    ]

"""The comparison for eyes (plain text in a pipe, tables on a terminal) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from inference_serving.validation.comparison import Comparison
from inference_serving.validation.errors import STATISTICS, Group, Value
from inference_serving.validation.series import SeriesComparison


@dataclass(frozen=True)
class Block:
    """One table: title, column heads, rows of text (the first column is a name)."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def percent(value: float | None) -> str:
    """An error with its sign, or a dash."""
    return "-" if value is None else f"{value:+.1f} %"


def facts(comparison: Comparison) -> list[str]:
    """What was compared with what, in lines."""
    real, simulated, matching = comparison.real, comparison.simulated, comparison.matching
    lines = [f"real: {real.file} ({real.format})", f"simulated: {simulated.file}"]
    if comparison.latency_sources:
        lines.append(f"latencies from: {', '.join(comparison.latency_sources)}")
    if matching is not None:
        lines.append(f"matched {matching.how}: {len(matching.pairs)} requests")
        lines += [f"left out: {one.count} requests, {one.why}" for one in matching.left_out]
    return lines + [f"note: {note}" for note in comparison.notes]


def blocks(comparison: Comparison) -> list[Block]:
    """All tables."""
    found = [_group_block(group) for group in comparison.groups]
    if comparison.throughput:
        rows = tuple((name, *_cells(value)) for name, value in comparison.throughput.items())
        found.append(Block("throughput", ("", "real", "simulated", "error"), rows))
    found += [_series_block(series) for series in comparison.series]
    found += [_load_block(comparison.load_groups)] if comparison.load_groups else []
    return found


def _cells(value: Value) -> tuple[str, str, str]:
    return f"{value.real:.2f}", f"{value.simulated:.2f}", percent(value.error)


def _group_block(group: Group) -> Block:
    rows: list[tuple[str, ...]] = []
    for metric in group.metrics:
        values = [metric.statistics[name] for name in STATISTICS]
        paired = "" if metric.paired is None else f"{metric.paired:.1f} %"
        rows += [
            (f"{metric.name} real", *(f"{value.real:.2f}" for value in values), ""),
            ("  simulated", *(f"{value.simulated:.2f}" for value in values), ""),
            ("  error", *(percent(value.error) for value in values), paired),
        ]
    return Block(f"{group.name} ({group.requests})", ("ms", *STATISTICS, "a request"), tuple(rows))


def _series_block(series: SeriesComparison) -> Block:
    rows = [
        ("tokens", *_cells(series.tokens)),
        ("tok/s until the last token", *_cells(series.busy)),
        *((f"tok/s at {one.name}, {one.intervals} intervals", *_cells(one.mean)) for one in series.by_load),
        ("mean error of all intervals", "", "", percent(series.mean_error)),
        ("mean absolute error of all intervals", "", "", percent(series.mean_absolute_error).lstrip("+")),
        (
            f"the same, moved by {series.best_shift:+d} intervals",
            "",
            "",
            percent(series.shifted_absolute_error).lstrip("+"),
        ),
    ]
    title = f"{series.counts} tokens a second, in intervals of {series.step_s:g} s"
    return Block(title, ("", "real", "simulated", "error"), tuple(rows))


def _load_block(groups: Sequence[Group]) -> Block:
    rows = []
    for group in groups:
        errors = {metric.name: percent(metric.statistics["mean"].error) for metric in group.metrics}
        rows.append((group.name, str(group.requests), *(errors.get(name, "-") for name in _LOAD_METRICS)))
    return Block("error of the mean, by load", ("", "requests", *_LOAD_METRICS), tuple(rows))


_LOAD_METRICS = ("TTFT", "TPOT", "latency")


def print_report(comparison: Comparison, stream: TextIO) -> None:
    """Print everything: rich tables on a terminal, aligned text elsewhere."""
    for line in facts(comparison):
        print(line, file=stream)
    for block in blocks(comparison):
        if stream.isatty():
            _print_table(block, stream)
        else:
            print(f"\n{_plain(block)}", file=stream)


def _print_table(block: Block, stream: TextIO) -> None:
    table = Table(title=block.title, title_justify="left")
    for column, head in enumerate(block.head):
        table.add_column(head, justify="right" if column else "left")
    for row in block.rows:
        table.add_row(*row)
    Console(file=stream).print(table)


def _plain(block: Block) -> str:
    rows = [block.head, *block.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(block.head))]
    lines = [block.title]
    for row in rows:
        name, *cells = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((name, *cells)).rstrip())
    return "\n".join(lines)


def report_json(comparison: Comparison) -> str:
    """The same facts as JSON: latencies in ms, errors in %, series in tokens a second."""
    matching = comparison.matching
    content: dict[str, Any] = {
        "real": {"file": str(comparison.real.file), "format": comparison.real.format},
        "simulated": {
            "file": str(comparison.simulated.file),
            "latency_sources": list(comparison.latency_sources),
        },
        "matching": None
        if matching is None
        else {
            "how": matching.how,
            "requests": len(matching.pairs),
            "left_out": [{"count": one.count, "why": one.why} for one in matching.left_out],
        },
        "notes": list(comparison.notes),
        "groups": [_group_json(group) for group in comparison.groups],
        "by_load": [_group_json(group) for group in comparison.load_groups],
        "throughput": {name: _value_json(value) for name, value in comparison.throughput.items()},
        "series": [_series_json(series) for series in comparison.series],
    }
    return json.dumps(content, indent=2) + "\n"


def _value_json(value: Value) -> dict[str, float | None]:
    return {"real": value.real, "simulated": value.simulated, "error_percent": value.error}


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "requests": group.requests,
        "latency_ms": {
            metric.name: {
                "samples": {"real": metric.samples[0], "simulated": metric.samples[1]},
                **{name: _value_json(value) for name, value in metric.statistics.items()},
                "median_absolute_error_of_requests_percent": metric.paired,
            }
            for metric in group.metrics
        },
    }


def _series_json(series: SeriesComparison) -> dict[str, Any]:
    return {
        "counts": series.counts,
        "step_s": series.step_s,
        "tokens": _value_json(series.tokens),
        "until_last_token_per_s": _value_json(series.busy),
        "mean_error_percent": series.mean_error,
        "mean_absolute_error_percent": series.mean_absolute_error,
        "best_shift_intervals": series.best_shift,
        "shifted_mean_absolute_error_percent": series.shifted_absolute_error,
        "by_load": [
            {"name": one.name, "intervals": one.intervals, "per_s": _value_json(one.mean)}
            for one in series.by_load
        ],
        "real": series.real.tolist(),
        "simulated": series.simulated.tolist(),
    }

"""``python -m evaluation.parser FILE``: the numbers of one run, as ``scenario metric time_s value``.

FILE is a summary written with ``--summary-json``, or what a run has printed (``.log``, ``.txt``), of this simulator or
of LLMServingSim 2.0. Exit codes: 0 printed, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.parser.component_power import component_rows
from evaluation.parser.hit_rate import hit_rate_rows, hit_rate_series_rows, logged_hit_rate_rows
from evaluation.parser.latency import latency_rows
from evaluation.parser.memory import logged_memory_rows, memory_rows
from evaluation.parser.power import logged_power_rows, power_rows
from evaluation.parser.simulation_time import METRIC, simulation_time_rows
from evaluation.parser.summary import is_log, read_summary
from evaluation.parser.throughput import logged_throughput_rows, throughput_rows
from evaluation.rows import Row, rows_text

_LOGGED: tuple[Callable[[str, Path], list[Row]], ...] = (
    logged_throughput_rows,
    logged_memory_rows,
    logged_hit_rate_rows,
    logged_power_rows,
)


def run_rows(scenario: str, args: argparse.Namespace) -> list[Row]:
    """Everything that the files of one run tell; raises InputError for a file that is none."""
    file: Path = args.file
    summary = read_summary(file)
    rows = throughput_rows(scenario, file, args.csv)
    rows += latency_rows(scenario, file)
    rows += hit_rate_rows(scenario, file)
    if "power" in summary:
        rows += [*power_rows(scenario, file, args.power_series), *component_rows(scenario, file)]
    if args.memory_series is not None:
        rows += memory_rows(scenario, args.memory_series)
        rows += hit_rate_series_rows(scenario, args.memory_series)
    if is_log(file):
        rows += [row for parse in _LOGGED for row in parse(scenario, file)]
    if summary.get(METRIC) is not None:
        rows += simulation_time_rows(scenario, file)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.parser", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="summary JSON, or the log of a run")
    parser.add_argument("--csv", type=Path, help="its --output, for the throughput of each second")
    parser.add_argument("--power-series", type=Path, help="its --power-series")
    parser.add_argument("--memory-series", type=Path, help="its --memory-series")
    args = parser.parse_args(argv)
    try:
        print(rows_text(run_rows(args.file.stem, args)), end="")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

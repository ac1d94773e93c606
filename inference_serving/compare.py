"""``python -m inference_serving.compare RUN.json ...``: the headline numbers of several runs side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError, read_json_object

_COLUMNS = ("run", "requests", "iterations", "TTFT mean", "TTFT p99", "TPOT mean", "TPOT p99", "tok/s")


def headline(file: Path) -> tuple[str, ...]:
    """One row of the table, from a ``--summary-json`` file; raises InputError if it is not one."""
    facts: dict[str, Any] = read_json_object(file)
    try:
        ttft, tpot = facts["latency_ms"]["ttft"], facts["latency_ms"]["tpot"]
        return (
            file.stem,
            str(facts["requests"]["finished"]),
            str(sum(instance["iterations"] for instance in facts["instances"])),
            f"{ttft['mean']:.1f}",
            f"{ttft['p99']:.1f}",
            f"{tpot['mean']:.1f}",
            f"{tpot['p99']:.1f}",
            f"{facts['throughput_per_s']['generated_tokens']:.0f}",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(file, str(error), "not a summary written with --summary-json") from None


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m inference_serving.compare", description=__doc__)
    parser.add_argument(
        "summaries", type=Path, nargs="+", metavar="RUN.json", help="written with --summary-json"
    )
    args = parser.parse_args(argv)
    try:
        rows = [_COLUMNS, *(headline(file) for file in args.summaries)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        name, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join((name.strip().ljust(widths[0]), *numbers)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

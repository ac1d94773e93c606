"""``bash summary.sh``: every scenario's error against the real system, beside the published simulator's, in one page.

Exit codes: 0, 1 if a scenario has failed, 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.figure import Results, report, run_figures
from evaluation.figures import FIGURES
from evaluation.inputs import Inputs, add_arguments, inputs_of
from evaluation.memory_errors import HITS, MEMORY
from evaluation.plot_style import PAGE_IN, open_pyplot, save
from evaluation.published import ABSOLUTE_ERRORS_PERCENT, SOURCE
from evaluation.real_systems import INTERVALS, Error, error_of, error_text
from evaluation.table_plot import draw_table
from inference_serving.files import write_whole

_METRICS = (
    "throughput",
    INTERVALS,
    "mean TTFT",
    "mean TPOT",
    "mean ITL",
    "mean power",
    "energy",
    MEMORY,
    HITS,
)
_PUBLISHED = ("throughput", "mean TTFT", "mean TPOT")
_HEADER = (
    "scenario",
    "throughput",
    "1 s\nintervals",
    "TTFT",
    "TPOT",
    "ITL",
    "power",
    "energy",
    "memory",
    "hit rate",
    "published\nthroughput",
    "published\nTTFT",
    "published\nTPOT",
)
_LINE_HEIGHT_IN = 0.22


def lines_of(scenarios: Sequence[str], errors: Sequence[Error]) -> list[tuple[str, ...]]:
    """A line a scenario: our errors (- where there is no real system to compare with), then the published ones."""
    names = [*scenarios, *(name for name in ABSOLUTE_ERRORS_PERCENT if name not in scenarios)]
    return [(name, *_ours(name, errors), *_published(name)) for name in names]


def _ours(name: str, errors: Sequence[Error]) -> Iterable[str]:
    found = (error_of(errors, name, metric) for metric in _METRICS)
    return ("-" if one is None else error_text(one) for one in found)


def _published(name: str) -> Iterable[str]:
    known = ABSOLUTE_ERRORS_PERCENT.get(name, {})
    return (f"{known[metric]:.1f} %" if metric in known else "-" for metric in _PUBLISHED)


def _print(lines: Sequence[Sequence[str]]) -> None:
    print(f"\nErrors against real systems; published: absolute errors of {SOURCE}")
    table = [[name.replace("\n", " ") for name in _HEADER], *lines]
    widths = [max(map(len, column)) + 2 for column in zip(*table, strict=True)]
    for first, *rest in table:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        print(f"  {first:<{widths[0]}}" + "".join(cells))


def _write(lines: Sequence[Sequence[str]], folder: Path) -> None:
    header = "\t".join(name.replace("\n", " ") for name in _HEADER)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "summary.tsv", "\n".join([header, *("\t".join(line) for line in lines)]) + "\n")
    pyplot = open_pyplot("summary")
    figure, axes = pyplot.subplots(figsize=(PAGE_IN, _LINE_HEIGHT_IN * (len(lines) + 4)))
    axes.set_title(f"errors against real systems; published: absolute errors of {SOURCE}")
    draw_table(axes, _HEADER, lines)
    for file in (folder / "summary.tsv", *save(pyplot, figure, folder / "summary")):
        print(f"  wrote {file}")


def _summarize(inputs: Inputs) -> list[Results]:
    results = run_figures(FIGURES, inputs)
    scenarios = list(dict.fromkeys(scenario.name for figure in FIGURES for scenario in figure.scenarios))
    lines = lines_of(scenarios, [error for one in results for error in one.errors])
    _print(lines)
    _write(lines, inputs.output_dir / "results")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run every figure, then print and draw the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="summary.sh", description="The error of every scenario in one page."
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return report(_summarize(inputs_of(args)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())

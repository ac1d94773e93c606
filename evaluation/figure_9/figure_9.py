"""Figure 9: throughput of a TPU-v6e-1 over time, and a table of errors; see README.md here."""

from __future__ import annotations

from pathlib import Path

from evaluation.figure import Figure, Results, main
from evaluation.inputs import Inputs
from evaluation.parser.latency import latency_rows
from evaluation.parser.throughput import throughput_rows
from evaluation.plot_style import PAGE_IN, open_pyplot, save
from evaluation.published import ABSOLUTE_ERRORS_PERCENT
from evaluation.real_systems import Error, error_of, latency_errors, real_requests, signed, throughput_errors
from evaluation.rows import Row, value_in
from evaluation.scenarios import Outcome, Scenario
from evaluation.table_plot import draw_table
from evaluation.throughput_plot import draw_throughput

_NAME = "TPU-v6e-1 SD"
_PLACE = "tpu-v6e-1_figure_9/SD"
_METRICS = (
    ("throughput (tok/s)", "mean_throughput_tok_s"),
    ("mean TTFT (ms)", "mean_ttft_ms"),
    ("mean TPOT (ms)", "mean_tpot_ms"),
    ("mean ITL (ms)", "mean_itl_ms"),
)
_HEADER = ("", "simulated", "real", "error", "published\n|error|")
_HEIGHT_IN = 2.3


def _parse(outcome: Outcome) -> list[Row]:
    name, files = outcome.scenario.name, outcome.files
    return [*throughput_rows(name, files.summary, files.csv), *latency_rows(name, files.summary)]


def _errors(outcome: Outcome, inputs: Inputs) -> list[Error]:
    name, csv = outcome.scenario.name, outcome.files.csv
    if (requests := real_requests(inputs, _PLACE)) is not None:
        return latency_errors(name, requests, csv)
    series = inputs.real(f"{_PLACE}_throughput.tsv")
    return [] if series is None else throughput_errors(name, series, csv)


def _draw(results: Results) -> list[Path]:
    pyplot = open_pyplot("figure_9")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(PAGE_IN, _HEIGHT_IN), width_ratios=[1, 1.3])
    real = real_requests(results.inputs, _PLACE) or results.inputs.real(f"{_PLACE}_throughput.tsv")
    draw_throughput(left, results, _NAME, real)
    left.set_xlabel("time (s)")
    left.set_ylabel("generated tokens/s")
    draw_table(
        right, _HEADER, [_line(results, label, metric) for label, metric in _METRICS], first_width=0.34
    )
    return save(pyplot, figure, results.folder / "figure_9")


def _line(results: Results, label: str, metric: str) -> tuple[str, ...]:
    simulated = value_in(results.rows, _NAME, metric)
    error = error_of(results.errors, _NAME, label)
    name = label.split(" (", maxsplit=1)[0]
    published = ABSOLUTE_ERRORS_PERCENT[_NAME].get(name)
    return (
        label,
        "-" if simulated is None else f"{simulated:.1f}",
        "-" if error is None or error.real is None else f"{error.real:.1f}",
        "-" if error is None else signed(error.percent),
        "-" if published is None else f"{published:.1f} %",
    )


FIGURE = Figure(
    name="figure_9",
    title="a TPU-v6e-1: throughput over time, and errors",
    scenarios=(
        Scenario(
            _NAME, Path(__file__).parent / "config" / "TPU-v6e-1_SD.json", "sharegpt_req300_rate10_llama"
        ),
    ),
    parse=_parse,
    errors=_errors,
    draw=_draw,
)

if __name__ == "__main__":
    raise SystemExit(main([FIGURE]))

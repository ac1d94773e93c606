"""Figure 8: errors and simulation time beside other simulators, and what is simulated; see README.md here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError
from evaluation.figure import Figure, Results, main
from evaluation.figure_5 import figure_5
from evaluation.inputs import Inputs
from evaluation.parser.latency import latency_rows
from evaluation.parser.simulation_time import METRIC as TIME_METRIC
from evaluation.parser.simulation_time import simulation_time_rows
from evaluation.parser.throughput import throughput_rows
from evaluation.plot_style import PAGE_IN, log_axis, looks, open_pyplot, save
from evaluation.published import METRICS, ORIGINAL, TIME, Range, read_published
from evaluation.real_systems import Error, error_of, latency_errors
from evaluation.rows import Row, value_in
from evaluation.scenarios import Outcome, Scenario
from evaluation.table_plot import draw_table

_CONFIG = Path(__file__).parent / "config"
_OURS = "this simulator"
_RTX_RUN = "rtxpro6000_llama31_8b/requests.jsonl"
_LOGS_OF_ORIGINAL = "llmservingsim2_figure_8"
_HEADER = ("", "throughput (tok/s)", "mean TTFT (ms)", "mean TPOT (ms)", "simulation time (s)")
_VALUES = (
    ("mean_throughput_tok_s", ".0f"),
    ("mean_ttft_ms", ".1f"),
    ("mean_tpot_ms", ".1f"),
    (TIME_METRIC, ".2f"),
)
_TITLES = ("throughput", "mean TTFT", "mean TPOT", "simulation time")
_PANELS_IN, _LINE_IN = 2.0, 0.16


def _scenarios() -> tuple[Scenario, ...]:
    again = {one.name: one for one in figure_5.FIGURE.scenarios}
    return (
        Scenario("H100 SD", _CONFIG / "H100_SD.json", again["H100 MD"].workload),
        *(again[name] for name in ("H100 MD", "H100 PDD", "H100 SM", "A6000 MD", "A6000 PDD", "A6000 SM")),
        Scenario(
            "RTXPRO6000 SD",
            _CONFIG / "RTXPRO6000_SD.json",
            "sharegpt-llama-3.1-8b-300-sps10",
            settings_of=_RTX_RUN,
        ),
    )


def _parse(outcome: Outcome) -> list[Row]:
    """Without the simulation time, which no two runs share."""
    name, files = outcome.scenario.name, outcome.files
    return [*throughput_rows(name, files.summary), *latency_rows(name, files.summary)]


def _errors(outcome: Outcome, inputs: Inputs) -> list[Error]:
    real = outcome.scenario.settings_of and inputs.real(outcome.scenario.settings_of)
    if real:
        return latency_errors(outcome.scenario.name, real, outcome.files.csv)
    return figure_5.real_errors(outcome, inputs)


def _simulation_time_s(outcome: Outcome) -> float:
    (row,) = simulation_time_rows(outcome.scenario.name, outcome.files.log)
    return row.value


def points_of(results: Results) -> dict[str, list[Mapping[str, Range]]]:
    """By simulator a mapping for each scenario: lowest and highest number by column of ``published.tsv``."""
    points: dict[str, list[Mapping[str, Range]]] = {_OURS: []}
    for one in results.served:
        errors = {
            name: error_of(results.errors, one.scenario.name, metric) for metric, name in METRICS.items()
        }
        values = {name: abs(error.percent) for name, error in errors.items() if error is not None}
        values[TIME] = _simulation_time_s(one)
        points[_OURS].append({name: (value, value) for name, value in values.items()})
    for line in read_published():
        points.setdefault(line.simulator, []).append(line.values)
    return points


def _draw(results: Results) -> list[Path]:
    pyplot = open_pyplot("figure_8")
    points, lines = points_of(results), table_lines(results)
    table_in = _LINE_IN * (len(lines) + 2)
    figure = pyplot.figure(figsize=(PAGE_IN, _PANELS_IN + table_in))
    above, below = figure.subfigures(2, 1, height_ratios=[_PANELS_IN, table_in])
    panels = above.subplots(1, len(_TITLES), sharey=True)
    for axes, title, column in zip(panels, _TITLES, (*METRICS.values(), TIME), strict=True):
        _draw_panel(axes, points, column)
        axes.set_title(title)
        axes.set_xlabel("time (s)" if column == TIME else "|error| (%)")
    panels[0].set_yticks(range(len(points)), list(points))
    panels[0].set_ylim(len(points) - 0.4, -0.6)
    draw_table(below.subplots(), _HEADER, lines)
    return save(pyplot, figure, results.folder / "figure_8")


def _draw_panel(axes: Any, points: Mapping[str, Sequence[Mapping[str, Range]]], column: str) -> None:
    """A line a simulator: a mark for each number, a bar for each range; linear below 1 where errors may be 0."""
    for place, (name, look) in enumerate(looks(list(points)).items()):
        known = [one[column] for one in points[name] if column in one]
        for low, high in known:
            marks = (
                {"marker": "|", "markersize": 7} if high > low else {"marker": look.marker, "mfc": "white"}
            )
            axes.plot([low, high], [place, place], linestyle="-", color=look.colour, clip_on=False, **marks)
        if not known:
            text = "no real series" if name == _OURS else "not known"
            axes.text(
                *(0.5, place, text), transform=axes.get_yaxis_transform(), ha="center", va="center", size=7
            )
    if column == TIME:
        log_axis(axes, "x")
    else:
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.6)
        axes.set_xlim(-0.2, 1500)
        axes.set_xticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
        axes.minorticks_off()
    axes.tick_params(axis="y", length=0)


def table_lines(results: Results) -> list[tuple[str, ...]]:
    """What was simulated, a line a scenario, and below it what a log of the original says, where one is at hand."""
    lines = []
    for one in results.served:
        name = one.scenario.name
        rows = [*results.rows, Row(name, TIME_METRIC, _simulation_time_s(one))]
        lines.append((name, *_cells(rows, name)))
        log = results.inputs.real(f"{_LOGS_OF_ORIGINAL}/{one.scenario.stem}.log")
        if log is not None:
            lines.append((f"{name}, {ORIGINAL}", *_cells(_logged(name, log), name)))
    return lines


def _logged(name: str, log: Path) -> list[Row]:
    rows = [*throughput_rows(name, log), *latency_rows(name, log)]
    try:
        return [*rows, *simulation_time_rows(name, log)]
    except InputError:  # an older log, or one of a run that was timed otherwise
        return rows


def _cells(rows: Sequence[Row], name: str) -> list[str]:
    values = ((value_in(rows, name, metric), digits) for metric, digits in _VALUES)
    return ["-" if value is None else format(value, digits) for value, digits in values]


FIGURE = Figure(
    name="figure_8",
    title="errors and simulation time beside other simulators",
    scenarios=_scenarios(),
    parse=_parse,
    errors=_errors,
    draw=_draw,
    is_timed=True,
)

if __name__ == "__main__":
    raise SystemExit(main([FIGURE]))

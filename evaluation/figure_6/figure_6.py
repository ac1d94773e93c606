"""Figure 6: power of an A6000 server with one NPU and with two, and its energy by component; see README.md here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.energy_plot import draw_components, list_components
from evaluation.figure import Figure, Results, main
from evaluation.inputs import Inputs
from evaluation.parser.component_power import component_rows
from evaluation.parser.latency import latency_rows
from evaluation.parser.power import SERIES, power_rows
from evaluation.plot_style import PAGE_IN, open_pyplot, save
from evaluation.real_systems import Error, error_of, power_errors, signed
from evaluation.rows import Row, series_in
from evaluation.scenarios import Outcome, Scenario
from evaluation.throughput_plot import ALONE, draw_series
from inference_serving.validation.readers.series_table import read_columns

_CONFIG = Path(__file__).parent / "config"
_HEIGHT_IN = 2.6


def _meter(name: str, inputs: Inputs) -> Path | None:
    return inputs.real(f"a6000_figure_6/server_power_{name.rsplit(maxsplit=1)[-1].lower()}.tsv")


def _parse(outcome: Outcome) -> list[Row]:
    name, files = outcome.scenario.name, outcome.files
    return [
        *power_rows(name, files.summary, files.power),
        *component_rows(name, files.summary),
        *latency_rows(name, files.summary),
    ]


def _errors(outcome: Outcome, inputs: Inputs) -> list[Error]:
    meter = _meter(outcome.scenario.name, inputs)
    return [] if meter is None else power_errors(outcome.scenario.name, meter, outcome.files.power)


def _draw(results: Results) -> list[Path]:
    pyplot = open_pyplot("figure_6")
    names = [one.scenario.name for one in results.served]
    figure, panels = pyplot.subplots(
        1, len(names) + 1, figsize=(PAGE_IN, _HEIGHT_IN), width_ratios=[1] * len(names) + [1.1]
    )
    for axes, name in zip(panels, names, strict=False):
        _draw_power(axes, results, name)
    panels[0].set_ylabel("server power (W)")
    top = max(axes.get_ylim()[1] for axes in panels[:-1])
    for axes in panels[:-1]:
        axes.set_ylim(0, top)
    _draw_energy(panels[-1], results, names)
    return save(pyplot, figure, results.folder / "figure_6")


def _draw_power(axes: Any, results: Results, name: str) -> None:
    meter = _meter(name, results.inputs)
    if meter is not None:
        begins_s, power_w = read_columns(meter, ("time_s", "power_w"))
        draw_series(axes, "real", "real server", begins_s + begins_s[1] - begins_s[0], power_w)
    draw_series(
        axes, "simulated", ALONE if meter is None else "simulated", *series_in(results.rows, name, SERIES)
    )
    mean = error_of(results.errors, name, "mean power")
    axes.set_title(name if mean is None else f"{name}\nmean power {signed(mean.percent)}")
    axes.set_xlabel("time (s)")
    axes.set_xlim(left=0)
    axes.legend(loc="lower center")


def _draw_energy(axes: Any, results: Results, names: list[str]) -> None:
    """Stacked bars, the first part at the bottom; a black line where the meter's energy is."""
    draw_components(axes, results.rows, names)
    titles: list[str] = []
    for place, name in enumerate(names):
        energy = error_of(results.errors, name, "energy")
        if energy is not None and energy.real is not None:
            label = "_" if titles else "real server"  # one entry in the legend
            axes.hlines(energy.real, place - 0.4, place + 0.4, color="black", linestyle="--", label=label)
            titles.append(f"{name.split()[-1]} {signed(energy.percent)}")
    axes.set_title("\n".join(["energy", ", ".join(titles)]) if titles else "energy")
    axes.set_ylabel("simulated energy (kJ)")
    list_components(axes)


FIGURE = Figure(
    name="figure_6",
    title="power of an A6000 server over time, and its energy by component",
    scenarios=tuple(
        Scenario(
            f"A6000 {name}", _CONFIG / f"A6000_{name}.json", "sharegpt_pulse_req10_n3_delay60", has_power=True
        )
        for name in ("TP1", "TP2")
    ),
    parse=_parse,
    errors=_errors,
    draw=_draw,
)

if __name__ == "__main__":
    raise SystemExit(main([FIGURE]))

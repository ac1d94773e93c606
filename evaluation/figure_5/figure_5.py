"""Figure 5: generated tokens a second over time, on A6000 and on H100; see README.md here."""

from __future__ import annotations

from pathlib import Path

from evaluation.figure import Figure, Results, main
from evaluation.inputs import Inputs
from evaluation.parser.hit_rate import hit_rate_rows
from evaluation.parser.latency import latency_rows
from evaluation.parser.throughput import throughput_rows
from evaluation.plot_style import PAGE_IN, open_pyplot, save
from evaluation.real_systems import Error, latency_errors, real_requests, throughput_errors
from evaluation.rows import Row
from evaluation.scenarios import Outcome, Scenario
from evaluation.throughput_plot import draw_throughput

_CONFIG = Path(__file__).parent / "config"
_MOE_WORKLOADS = {"A6000": "sharegpt_req300_rate10_phi", "H100": "sharegpt_req300_rate10_mixtral"}
_DENSE_WORKLOAD = "sharegpt_req300_rate10_llama"
_PANEL_HEIGHT_IN = 2.2


def _scenarios(hardware: str) -> tuple[Scenario, ...]:
    def one(name: str, workload: str = _DENSE_WORKLOAD) -> Scenario:
        caches = name == "SD+PC"
        return Scenario(
            f"{hardware} {name}",
            _CONFIG / f"{hardware}_{name}.json",
            workload,
            flags=("--enable-prefix-caching",) if caches else (),
            needs_token_ids=caches,
        )

    return (
        one("MD"),
        one("SD+PC"),
        one("PDD"),
        one("SM", _MOE_WORKLOADS[hardware]),
    )


def _real_place(scenario: Scenario) -> str:
    hardware, name = scenario.name.split(" ")
    return f"{hardware.lower()}_figure_5/{name}"


def _parse(outcome: Outcome) -> list[Row]:
    name, files = outcome.scenario.name, outcome.files
    return [
        *throughput_rows(name, files.summary, files.csv),
        *hit_rate_rows(name, files.summary),
        *latency_rows(name, files.summary),
    ]


def real_errors(outcome: Outcome, inputs: Inputs) -> list[Error]:
    """Errors against the real series of tokens a second, and against the times of real requests; where at hand."""
    name, place, errors = outcome.scenario.name, _real_place(outcome.scenario), []
    if (series := inputs.real(f"{place}_throughput.tsv")) is not None:
        errors += throughput_errors(name, series, outcome.files.csv)
    if (requests := real_requests(inputs, place)) is not None:
        known = {one.metric for one in errors}
        found = latency_errors(name, requests, outcome.files.csv)
        errors += [one for one in found if one.metric not in known]
    return errors


def _draw(results: Results) -> list[Path]:
    pyplot = open_pyplot("figure_5")
    by_hardware: dict[str, list[Outcome]] = {}
    for one in results.served:
        by_hardware.setdefault(one.scenario.name.split(" ")[0], []).append(one)
    columns = max(len(row) for row in by_hardware.values())
    figure, panels = pyplot.subplots(
        len(by_hardware),
        columns,
        figsize=(PAGE_IN, _PANEL_HEIGHT_IN * len(by_hardware)),
        sharey="row",
        squeeze=False,
    )
    for axes_of_row, row in zip(panels, by_hardware.values(), strict=True):
        for axes in axes_of_row[len(row) :]:
            axes.set_axis_off()
        for axes, one in zip(axes_of_row, row, strict=False):
            real = results.inputs.real(f"{_real_place(one.scenario)}_throughput.tsv")
            draw_throughput(axes, results, one.scenario.name, real)
        axes_of_row[0].set_ylabel("generated tokens/s")
    for axes in panels[-1]:
        axes.set_xlabel("time (s)")
    return save(pyplot, figure, results.folder / "figure_5")


FIGURE = Figure(
    name="figure_5",
    title="throughput over time on A6000 and H100",
    scenarios=(*_scenarios("A6000"), *_scenarios("H100")),
    parse=_parse,
    errors=real_errors,
    draw=_draw,
)

if __name__ == "__main__":
    raise SystemExit(main([FIGURE]))

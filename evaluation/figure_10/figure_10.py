"""Figure 10: a GPU alone, with decode attention in memory, and with interleaved sub-batches; see README.md here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.energy_plot import draw_components, list_components
from evaluation.figure import Figure, Results, main
from evaluation.parser.component_power import component_rows
from evaluation.parser.latency import latency_rows
from evaluation.parser.power import power_rows
from evaluation.parser.throughput import SERIES, throughput_rows
from evaluation.plot_style import PAGE_IN, looks, open_pyplot, save
from evaluation.rows import Row, series_in, value_in
from evaluation.scenarios import Outcome, Scenario

_CONFIG = Path(__file__).parent / "config" / "A6000_PIM.json"
_WORKLOAD = "fixed_in128_out512_req256_rate10"
_OFFLOADED = "--enable-attn-offloading"
_FLAGS = {
    "GPU (tables)": ("--decode-attention", "profiled"),
    "GPU": (),
    "PIM": (_OFFLOADED,),
    "PIM+SBI": (_OFFLOADED, "--enable-sub-batch-interleaving"),
}
_HEIGHT_IN = 2.6


def _parse(outcome: Outcome) -> list[Row]:
    name, files = outcome.scenario.name, outcome.files
    return [
        *throughput_rows(name, files.summary, files.csv),
        *power_rows(name, files.summary, files.power),
        *component_rows(name, files.summary),
        *latency_rows(name, files.summary),
    ]


def _draw(results: Results) -> list[Path]:
    pyplot = open_pyplot("figure_10")
    names = [one.scenario.name for one in results.served]
    figure, (over_time, energy, each) = pyplot.subplots(
        1, 3, figsize=(PAGE_IN, _HEIGHT_IN), width_ratios=[1.25, 1, 0.85]
    )
    _draw_throughput(over_time, results, names)
    draw_components(energy, results.rows, names)
    list_components(energy)
    energy.set_title("energy of the run")
    energy.set_ylabel("energy (kJ)")
    energy.set_ylim(0, 1.05 * energy.get_ylim()[1])
    _draw_energy_per_token(each, results, names)
    for axes in (energy, each):
        axes.tick_params(axis="x", rotation=60)
    return save(pyplot, figure, results.folder / "figure_10")


def _draw_throughput(axes: Any, results: Results, names: list[str]) -> None:
    for name, look in looks(names).items():
        ends_s, values = series_in(results.rows, name, SERIES)
        mean = value_in(results.rows, name, "mean_throughput_tok_s") or 0.0
        axes.plot(
            ends_s - 0.5, values, color=look.colour, linestyle=look.dash, label=f"{name}: mean {mean:.0f}"
        )
    axes.set_title("throughput")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("generated tokens/s")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.65 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left", handlelength=2.6)


def _draw_energy_per_token(axes: Any, results: Results, names: list[str]) -> None:
    energies_j = [value_in(results.rows, name, "energy_per_token_j") or 0.0 for name in names]
    bars = axes.bar(range(len(names)), energies_j, width=0.55, color="#8C8C8C")
    axes.bar_label(bars, fmt="%.3f", padding=1, fontsize=6.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_title("energy per token")
    axes.set_ylabel("energy per generated token (J)")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.15 * max(energies_j, default=1.0))


FIGURE = Figure(
    name="figure_10",
    title="an A6000 alone, with attention in memory (PIM), and with interleaved sub-batches (SBI)",
    scenarios=tuple(
        Scenario(name, _CONFIG, _WORKLOAD, flags, has_power=True) for name, flags in _FLAGS.items()
    ),
    parse=_parse,
    errors=lambda *_: [],
    draw=_draw,
)

if __name__ == "__main__":
    raise SystemExit(main([FIGURE]))

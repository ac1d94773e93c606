"""Figure 7: memory and prefix hit rate over time, of one instance and of two with a shared pool; see README.md here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.figure import Figure, Results, main
from evaluation.inputs import Inputs
from evaluation.memory_errors import HITS, OWN_MEMORY, Measured, memory_errors
from evaluation.parser.hit_rate import SUFFIX as HITS_SUFFIX
from evaluation.parser.hit_rate import hit_rate_rows, hit_rate_series_rows
from evaluation.parser.latency import latency_rows
from evaluation.parser.memory import memory_rows
from evaluation.parser.throughput import throughput_rows
from evaluation.plot_style import PAGE_IN, looks, open_pyplot, save
from evaluation.real_systems import Error, error_of, error_text
from evaluation.rows import Row, series_in
from evaluation.scenarios import Outcome, Scenario
from evaluation.throughput_plot import ALONE

_CONFIG = Path(__file__).parent / "config"
_REAL = "a6000_figure_7"
_ONE, _TWO = "A6000 pulses SD+PC", "A6000 pulses MD+PC+PS"
_SHARED_POOL = ("--prefix-storage", "CPU", "--enable-prefix-sharing")
_HEIGHT_IN = 3.6
_MIB_PER_GIB = 1024
_LOOKS = looks(("simulated", "real"))


@dataclass(frozen=True, slots=True)
class _Panel:
    """One instance or pool: its title and columns, and the file of its real series with that one's columns."""

    scenario: str
    title: str
    name: str
    memory: str
    real: str
    real_columns: tuple[str, ...] = ()
    is_pool: bool = False

    def measured(self, inputs: Inputs) -> Measured | None:
        """Its real series, if it is at hand."""
        file = inputs.real(f"{_REAL}/{self.real}.tsv")
        return None if file is None else Measured(self.name, file, *self.real_columns)


_PANELS = (
    _Panel(_ONE, "SD+PC", "instance0", "npu_mem_mb", "SD+PC"),
    _Panel(_TWO, "MD+PC+PS, instance 0", "instance0", "npu_mem_mb", "MD+PC+PS_inst0"),
    _Panel(_TWO, "MD+PC+PS, instance 1", "instance1", "npu_mem_mb", "MD+PC+PS_inst1"),
    _Panel(
        _TWO,
        "MD+PC+PS, host pool",
        "cpu_of_node_0",
        "mem_mb",
        "MD+PC+PS_shared_cpu",
        ("shared_cpu_mem_mb", "shared_cpu_prefix_hit_pct"),
        is_pool=True,
    ),
)


def _scenario(name: str, flags: Sequence[str] = ()) -> Scenario:
    return Scenario(
        name,
        _CONFIG / f"A6000_{name.rsplit(maxsplit=1)[-1]}.json",
        "sharegpt_pulse_req50_n6_delay15_pc",
        flags=("--enable-prefix-caching", *flags),
        has_memory=True,
    )


def _parse(outcome: Outcome) -> list[Row]:
    name, files = outcome.scenario.name, outcome.files
    return [
        *throughput_rows(name, files.summary),
        *hit_rate_rows(name, files.summary),
        *latency_rows(name, files.summary),
        *memory_rows(name, files.memory),
        *hit_rate_series_rows(name, files.memory),
    ]


def _errors(outcome: Outcome, inputs: Inputs) -> list[Error]:
    scenario = outcome.scenario.name
    found = [(one.is_pool, one.measured(inputs)) for one in _PANELS if one.scenario == scenario]
    instances, pools = (
        [measured for pool, measured in found if measured is not None and pool is is_pool]
        for is_pool in (False, True)
    )
    return memory_errors(scenario, instances, pools, outcome.files.memory)


def _draw(results: Results) -> list[Path]:
    pyplot = open_pyplot("figure_7")
    served = {one.scenario.name for one in results.served}
    panels = [one for one in _PANELS if one.scenario in served]
    figure, axes = pyplot.subplots(
        2, len(panels), figsize=(PAGE_IN, _HEIGHT_IN), sharex=True, sharey="row", squeeze=False
    )
    for column, panel in zip(axes.T, panels, strict=True):
        _draw_panel(column, panel, results)
    axes[0][0].set_ylabel("memory (GiB)")
    axes[1][0].set_ylabel("prefix hit rate (%)")
    for row in axes:
        row[0].set_ylim(0, 1.35 * row[0].get_ylim()[1])  # room for the legend
    return save(pyplot, figure, results.folder / "figure_7")


def _draw_panel(column: Sequence[Any], panel: _Panel, results: Results) -> None:
    measured = panel.measured(results.inputs)
    real = None if measured is None else measured.columns()
    ends_s, memory = series_in(results.rows, panel.scenario, f"{panel.name}_{panel.memory}")
    _, hits = series_in(results.rows, panel.scenario, f"{panel.name}{HITS_SUFFIX}")
    simulated = (memory / _MIB_PER_GIB, hits)
    for place, (axes, values) in enumerate(zip(column, simulated, strict=True)):
        if real is not None:
            real_values = real[1] / _MIB_PER_GIB if place == 0 else real[2]
            _line(axes, "real", "real system", real[0], real_values)
        _line(axes, "simulated", ALONE if real is None else "simulated", ends_s, values)
        axes.set_xlim(left=0)
        error = error_of(results.errors, panel.scenario, f"{panel.name}: {(OWN_MEMORY, HITS)[place]}")
        off = "" if error is None else f"mean |error| {error_text(error)}"
        axes.set_title("\n".join(filter(None, [panel.title if place == 0 else "", off])))
    column[0].legend(loc="upper left", handlelength=1.0, handletextpad=0.4, borderaxespad=0.2)
    column[1].set_xlabel("time (s)")


def _line(axes: Any, kind: str, label: str, times_s: Any, values: Any) -> None:
    look = _LOOKS[kind]
    axes.plot(times_s, values, color=look.colour, linestyle=look.dash, label=label)


FIGURE = Figure(
    name="figure_7",
    title="memory and prefix hits of A6000 servers over time",
    scenarios=(_scenario(_ONE), _scenario(_TWO, _SHARED_POOL)),
    parse=_parse,
    errors=_errors,
    draw=_draw,
)

if __name__ == "__main__":
    raise SystemExit(main([FIGURE]))

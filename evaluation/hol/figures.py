"""Figures of a sweep; each function draws one from cells and returns it, or None if its runs are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.hol.bootstrap import Estimate
from evaluation.hol.cells import BASELINE, Cell, Cells, Setting, find
from evaluation.hol.measures import NS_PER_S, bound_ns, guarantee_of
from evaluation.hol.shadowing import differences_ms
from evaluation.plot_style import COLUMN_IN, PAGE_IN, Look, log_axis, looks

OURS = "bounded-overtake"
SHOWN = (OURS, BASELINE, "srpt", "lars", "mlfq", "vtc")
"""Policies of figures that have room for a few."""
_LOOKS = looks(SHOWN)
_SIDES = ("p99 TTFT of shorts (ms)", "p99 TTFT of longs (s)", "largest TTFT / bound")


def name_of(cell: Cell) -> str:
    """How figures call a cell: its policy, with the chunk that was chosen for it, and its router."""
    policy, chunk = cell.contestant, cell.points[0].chunk
    chosen = "" if chunk == 2048 or policy.endswith(str(chunk)) else f" ({chunk})"
    return f"{policy}{chosen}" + ("" if cell.router == "RR" else f" + {cell.router}")


def slowdown_cdf(pyplot: Any, setting: Setting, cells: Sequence[Cell]) -> Any:
    """Share of requests by slowdown, shorts and longs apart."""
    shown = [found for name in SHOWN if (found := find(cells, name))]
    if not shown:
        return None
    figure, both = pyplot.subplots(1, 2, figsize=(PAGE_IN, 2.6), sharey=True)
    for axes, name in zip(both, ("short", "long"), strict=True):
        for cell in shown:
            if runs := cell.values("slowdown", name):
                values = np.sort(np.concatenate(runs))
                look = _LOOKS[cell.contestant]
                share = np.arange(1, len(values) + 1) / len(values)
                axes.plot(values, share, color=look.colour, linestyle=look.dash, label=name_of(cell))
        log_axis(axes, "x")
        axes.set(xlabel="slowdown (TTFT / prefill time alone)", title=f"{name} prompts")
    both[0].set(ylabel="share of requests", ylim=(0, 1))
    _legend_above(figure, both[0], len(shown))
    return figure


def p99_against_load(pyplot: Any, cells: Cells) -> Any:
    """p99 TTFT of shorts and longs by load, with intervals."""
    series: dict[str, list[tuple[float, Cell]]] = {}
    for setting, found in cells.items():
        for cell in found:
            if cell.contestant in SHOWN:
                series.setdefault(cell.contestant, []).append((float(setting.load), cell))
    if not series:
        return None
    figure, both = pyplot.subplots(1, 2, figsize=(PAGE_IN, 2.6))
    for axes, part in zip(both, ("short", "long"), strict=True):
        for name, line in series.items():
            ordered = sorted(line, key=lambda item: item[0])
            estimates = [getattr(cell, f"{part}_p99_ms") for _, cell in ordered]
            _line(axes, [load for load, _ in ordered], estimates, _LOOKS[name], name_of(ordered[0][1]))
        log_axis(axes, "y")
        axes.set(xlabel="load", ylabel="p99 TTFT (ms)", title=f"{part} prompts")
    _legend_above(figure, both[0], len(series))
    return figure


def _line(axes: Any, loads: Sequence[float], estimates: Sequence[Estimate], look: Look, label: str) -> None:
    values = [one.value for one in estimates]
    axes.plot(loads, values, color=look.colour, linestyle=look.dash, marker=look.marker, label=label)
    low, high = zip(*(one.interval for one in estimates), strict=True)
    axes.fill_between(loads, low, high, color=look.colour, alpha=0.15, linewidth=0)


def pareto(pyplot: Any, cells: Cells) -> Any:
    """Shorts against longs: every policy is a mark, down and left is better for both."""
    if not cells:
        return None
    figure, row = pyplot.subplots(1, len(cells), figsize=(PAGE_IN, 3.4), squeeze=False)
    styles = looks(
        list(dict.fromkeys([*SHOWN, *(cell.contestant for found in cells.values() for cell in found)]))
    )
    for axes, (setting, found) in zip(row[0], cells.items(), strict=True):
        for cell in found:
            short, long = cell.short_p99_ms, cell.long_p99_ms
            if short is None or long is None:
                continue
            look, ours = styles[cell.contestant], cell.contestant == OURS
            style = {
                "color": look.colour,
                "marker": look.marker,
                "s": 60 if ours else 26,
                "label": name_of(cell),
            }
            axes.scatter(short.value, long.value / 1e3, edgecolors="black", linewidths=0.5, zorder=3, **style)
        log_axis(axes, "x")
        top_ms = max(one.value for cell in found if (one := cell.long_p99_ms))
        axes.set(xlabel="p99 TTFT of shorts (ms)", ylim=(0, 1.12 * top_ms / 1e3))
        axes.set_title(f"{setting.workload}, load {setting.load}")
    row[0][0].set_ylabel("p99 TTFT of longs (s)")
    figure.legend(*row[0][0].get_legend_handles_labels(), loc="outside right center")
    return figure


def fairness(pyplot: Any, cells: Sequence[Cell]) -> Any:
    """Jain's index in its three forms, and beside it the mean slowdown that it must be read with."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(PAGE_IN, 0.9 + 0.19 * len(cells)), sharey=True)
    places = np.arange(len(cells))[::-1]
    forms = ("over slowdowns", "over inverse slowdowns", "over class means")
    for form, (name, look) in enumerate(looks(forms).items()):
        values = [cell.fairness[form] for cell in cells]
        left.plot(values, places, linestyle="", marker=look.marker, color=look.colour, label=name)
    _dots(right, places, [cell.mean_slowdown for cell in cells])
    left.set(yticks=places, yticklabels=[name_of(cell) for cell in cells], xlim=(0, 1.02))
    left.set_xlabel("Jain's index (1: all alike)")
    left.set_ylim(-0.6, len(cells) - 0.4)
    log_axis(right, "x")
    right.set_xlabel("mean slowdown")
    _legend_above(figure, left, len(forms))
    return figure


def side_by_side(pyplot: Any, cells: Sequence[Cell]) -> Any:
    """p99 TTFT of shorts and longs, and the largest part of the bound that anybody used."""
    shape = (PAGE_IN, 0.7 + 0.19 * len(cells))
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=shape, sharey=True)
    places = np.arange(len(cells))[::-1]
    _dots(left, places, [cell.short_p99_ms for cell in cells])
    _dots(middle, places, [cell.long_p99_ms for cell in cells], scale=1e-3)
    right.plot([cell.bound_use.max() for cell in cells], places, linestyle="", marker="D", color="black")
    right.axvline(1, color="black", linewidth=0.8, linestyle="--")
    for axes, label in zip((left, middle, right), _SIDES, strict=True):
        log_axis(axes, "x")
        axes.set_xlabel(label)
    left.set(yticks=places, yticklabels=[name_of(cell) for cell in cells], ylim=(-0.6, len(cells) - 0.4))
    return figure


def _dots(axes: Any, places: Any, estimates: Sequence[Estimate | None], scale: float = 1.0) -> None:
    for place, one in zip(places, estimates, strict=True):
        if one is not None:
            low, high = (end * scale for end in one.interval)
            axes.plot([low, high], [place, place], color="#8C8C8C", linewidth=2.2, solid_capstyle="butt")
            axes.plot(one.value * scale, place, marker="o", color="#0072B2")


def shadow(pyplot: Any, cells: Sequence[Cell]) -> Any:
    """How much earlier or later each request has its first token than under the baseline."""
    base = find(cells, BASELINE)
    shown = [found for name in SHOWN if name != BASELINE and (found := find(cells, name))]
    if base is None or not shown:
        return None
    figure, both = pyplot.subplots(1, 2, figsize=(PAGE_IN, 2.6), sharey=True)
    for axes, name in zip(both, ("short", "long"), strict=True):
        for cell in shown:
            values = np.sort(differences_ms(cell, base, name)) / 1e3
            look, share = _LOOKS[cell.contestant], np.arange(1, len(values) + 1) / len(values)
            axes.plot(values, share, color=look.colour, linestyle=look.dash, label=name_of(cell))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel=f"TTFT less TTFT under {BASELINE} (s)", title=f"{name} prompts")
    both[0].set(ylabel="share of requests", ylim=(0, 1))
    _legend_above(figure, both[0], len(shown))
    return figure


def flood(pyplot: Any, cells: Sequence[Cell]) -> Any:
    """When the one long prompt of the flood is done, by policy, with its bound and its time alone."""
    figure, axes = pyplot.subplots(figsize=(COLUMN_IN, 0.8 + 0.17 * len(cells)))
    places = np.arange(len(cells))[::-1]
    for place, cell in zip(places, cells, strict=True):
        values = np.concatenate(cell.values("ttft_ms", "long")) / 1e3
        axes.plot(values, [place] * len(values), linestyle="", marker="o", color="#0072B2")
    cell = find(cells, OURS) or cells[0]
    requests = cell.runs[0].requests
    first = int(np.flatnonzero(requests["class"] == "long")[0])
    limit = bound_ns(requests, *guarantee_of(cell.points[0]))[first] / NS_PER_S
    axes.axvline(
        requests["isolated"][first] / NS_PER_S, color="black", linewidth=0.9, linestyle=":", label="alone"
    )
    axes.axvline(limit, color="#D55E00", linewidth=1.1, linestyle="--", label="bound")
    axes.set(
        yticks=places, yticklabels=[name_of(cell) for cell in cells], xlabel="TTFT of the 128K prompt (s)"
    )
    axes.set(xlim=(0, None), ylim=(-0.6, len(cells) - 0.4))
    _legend_above(figure, axes, 2)
    return figure


def _legend_above(figure: Any, axes: Any, count: int) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(count, 6))

"""Energy of scenarios as stacked bars, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.parser.component_power import PREFIX, SUFFIX
from evaluation.plot_style import looks
from evaluation.rows import Row, value_in

_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++++", "oooo")


def draw_components(axes: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    """A bar for each scenario, the first part at the bottom, told apart by hatches in grey."""
    parts = list(dict.fromkeys(one.metric for one in rows if one.metric.startswith(PREFIX)))
    bottoms = np.zeros(len(names))
    for part, look, hatch in zip(parts, looks(parts).values(), _HATCHES, strict=False):
        energies_kj = np.array([value_in(rows, name, part) or 0.0 for name in names])
        label = part.removeprefix(PREFIX).removesuffix(SUFFIX).replace("_", " ")
        style = {"color": look.colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        axes.bar(range(len(names)), energies_kj, bottom=bottoms, width=0.55, label=label, **style)
        bottoms += energies_kj
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")


def list_components(axes: Any) -> None:
    """The legend beside the bars, in the order in which they are stacked."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))

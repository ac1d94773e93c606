"""How this project's figures look: readable in print at column width, in grey and by the colour-blind.

Colours are those of Okabe and Ito (2008); lines differ by dash and marker too, so that grey does not mix them up.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError

COLUMN_IN, PAGE_IN = 3.4, 7.0
"""Widths of a column and of a page of print, in inches."""
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one series is drawn everywhere."""

    colour: str
    dash: Any
    marker: str


def looks(names: Sequence[str]) -> Mapping[str, Look]:
    """A look for each name, in order; colours, dashes and markers repeat at different places after eight."""
    return {
        name: Look(
            _COLOURS[index % len(_COLOURS)],
            _DASHES[index % len(_DASHES)],
            _MARKERS[(index + index // len(_MARKERS)) % len(_MARKERS)],
        )
        for index, name in enumerate(names)
    }


def open_pyplot(wanted_by: str) -> Any:
    """matplotlib.pyplot without a display and with this project's settings; raises InputError if there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("", wanted_by, "matplotlib is not installed; run ./compile.sh --with report")
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams.update(_SETTINGS)
    return importlib.import_module("matplotlib.pyplot")


def log_axis(axes: Any, which: str) -> None:
    """Make an axis (``x`` or ``y``) that has its data logarithmic, with plain numbers at its ticks.

    They are 1, 2, 5, 10 where it spans little and 1, 10, 100 else; below a factor of 3 it stays linear.
    """
    ticker = importlib.import_module("matplotlib.ticker")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    if not 0 < low * 3 <= high:
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 60 else (1.0,)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())


def save(pyplot: Any, figure: Any, stem: Path) -> list[Path]:
    """Write a figure as PDF and PNG, without a date, so that equal results make equal files; closes it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    try:
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            file = stem.with_name(f"{stem.name}.{kind}")
            temporary = stem.with_name(f".{stem.name}.{kind}")
            figure.savefig(temporary, format=kind, metadata=metadata)
            temporary.replace(file)
            files.append(file)
    finally:
        pyplot.close(figure)
    return files

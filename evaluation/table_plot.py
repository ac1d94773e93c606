"""A table of text as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHORTEST = 7
"""No column is narrower than this many letters: short headers have wide ones."""


def draw_table(
    axes: Any, header: Sequence[str], lines: Sequence[Sequence[str]], first_width: float | None = None
) -> None:
    """Fill ``axes`` with a table.

    The first column has ``first_width`` of the width and the others share the rest; without it every column is as
    wide as its longest text asks for.
    """
    axes.set_axis_off()
    others = len(header) - 1
    table = axes.table(
        [header, *lines],
        cellLoc="right",
        colWidths=_widths([header, *lines])
        if first_width is None
        else [first_width, *[(1 - first_width) / others] * others],
        edges="horizontal",
        bbox=(0, 0, 1, 1),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for (_, column), cell in table.get_celld().items():
        cell.set_linewidth(0.5)
        cell.PAD = 0.02
        if column == 0:
            cell.set_text_props(ha="left")


def _widths(table: Sequence[Sequence[str]]) -> list[float]:
    """Shares of the width, by the longest line of text in each column, and room for two letters."""
    longest = [
        2 + max(_SHORTEST, *(len(line) for cell in column for line in cell.split("\n")))
        for column in zip(*table, strict=True)
    ]
    return [length / sum(longest) for length in longest]

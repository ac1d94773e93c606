"""A table of text as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def draw_table(axes: Any, header: Sequence[str], lines: Sequence[Sequence[str]], first_width: float) -> None:
    """Fill ``axes`` with a table; the first column has ``first_width`` of the width, the others share the rest."""
    axes.set_axis_off()
    others = len(header) - 1
    table = axes.table(
        [header, *lines],
        cellLoc="right",
        colWidths=[first_width, *[(1 - first_width) / others] * others],
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

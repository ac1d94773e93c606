"""Policy shadowing: the same arrivals under two policies, request by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.hol.bootstrap import Floats
from evaluation.hol.cells import BASELINE, Cell, Cells, Setting, find
from evaluation.hol.tidy import csv_of
from inference_serving.files import write_whole

_PERCENTILES = (1, 50, 99)


def differences_ms(cell: Cell, base: Cell, name: str) -> Floats:
    """TTFT under a policy less TTFT under the baseline of each request of a class, over all seeds, in ms."""
    own, other = cell.values("ttft_ms", name), base.values("ttft_ms", name)
    return np.concatenate([one - two for one, two in zip(own, other, strict=True)])


def shadow_rows(setting: Setting, cells: Sequence[Cell]) -> list[Mapping[str, Any]]:
    """One row a policy and class: who gained, who lost, how much."""
    base = find(cells, BASELINE)
    if base is None:
        return []
    rows: list[Mapping[str, Any]] = []
    for cell in cells:
        if cell is base or cell.router != base.router:
            continue
        for name in ("short", "long"):
            found = differences_ms(cell, base, name) if cell.values("ttft_ms", name) else np.empty(0)
            if not len(found):
                continue
            p1, p50, p99 = np.percentile(found, _PERCENTILES).tolist()
            rows.append(
                {
                    "setting": setting.title,
                    "policy": cell.contestant,
                    "class": name,
                    "requests": len(found),
                    "faster_%": 100 * float((found < 0).mean()),
                    "slower_%": 100 * float((found > 0).mean()),
                    "p1_ms": p1,
                    "median_ms": p50,
                    "p99_ms": p99,
                    "largest_loss_ms": float(found.max()),
                }
            )
    return rows


def write_shadowing(cells: Cells, folder: Path) -> None:
    """Write ``shadowing.md`` and ``shadowing.csv``."""
    rows = [row for setting, found in cells.items() for row in shadow_rows(setting, found)]
    if not rows:
        return
    write_whole(folder / "shadowing.csv", csv_of(rows))
    lines = [
        f"# Shadowing\n\nTTFT of each request less its TTFT under {BASELINE} on the same arrivals (ms).\n"
    ]
    lines += ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells_text = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append("| " + " | ".join(cells_text) + " |")
    write_whole(folder / "shadowing.md", "\n".join(lines) + "\n")

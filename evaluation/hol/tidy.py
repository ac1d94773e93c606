"""Tidy results: one row a point and class, as CSV and, where pyarrow is installed, as Parquet."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.hol.measures import measure
from evaluation.hol.plan import Point
from evaluation.hol.store import Store
from inference_serving.files import write_whole

Row = Mapping[str, Any]


def write_tidy(points: Sequence[Point], store: Store, output: Path) -> list[Row]:
    """Measure finished points and write ``results.csv`` and ``results.parquet``; returns the rows."""
    rows: list[Row] = [row for point in points for row in measure(point, store.load(point))]
    write_whole(output / "results.csv", csv_of(rows))
    if rows and importlib.util.find_spec("pyarrow") is not None:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(arrow.Table.from_pylist(list(rows)), output / "results.parquet")
    return rows


def csv_of(rows: Sequence[Row]) -> str:
    """Rows with the same columns as CSV; floats with seven digits."""
    text = io.StringIO()
    if rows:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(
            [f"{cell:.7g}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows
        )
    return text.getvalue()

"""How far a decode batch of uneven KV lengths is from one of equal lengths: ``skew_fit.csv``.

A batch takes ``t_mean + alpha * (t_max - t_mean)``, where ``t_mean`` is that of as many requests with the
mean KV and ``t_max`` with the longest. ``alpha`` is fitted per bucket of five quantities; the label of a
bucket (``n<=8``, ``sr<=15%``, ``kvB<=4k``, ``kp=0``, ``n>256``) says what lies in it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_profile.table_csv import Table, read_table

COLUMNS = ("pc", "n_label", "skew_rate_label", "kv_big_label", "kp_label", "alpha")
UNEVEN_COLUMNS = ("n", "nb", "kvs", "kv_big", "t_mean_us", "t_skew_us")
_LABEL = re.compile(r"(?P<name>[A-Za-z]+)(?P<sign><=|>|=)(?P<number>[0-9.]+)(?P<unit>[%kK]?)")
_SCALE = {"": 1.0, "%": 0.01, "k": 1024.0, "K": 1024.0}


class SkewTable:
    """``alpha`` by prefill chunk, number of decodes, share of long ones, longest KV and prefill context."""

    def __init__(self, chunks: list[int], edges: list[list[float]], alpha: NDArray[np.float64]) -> None:
        self._chunks = chunks
        self._edges = edges
        self._alpha = alpha.tolist()

    def alpha(
        self, chunk: int, context: int, requests: int, shortest: int, mean: float, longest: int
    ) -> float:
        """``alpha`` of a batch; the share of long requests is where the mean lies between the extremes.

        A chunk between two measured ones takes the nearer; with no prefill (``chunk`` 0), that of pure decode.
        """
        share = (mean - shortest) / (longest - shortest)
        found = self._alpha[self._chunk_index(chunk)]
        for edges, value in zip(self._edges, (requests, share, longest, context), strict=True):
            found = found[min(bisect_left(edges, value), len(edges) - 1)]
        return float(found)

    def _chunk_index(self, chunk: int) -> int:
        chunks = self._chunks
        right = bisect_left(chunks, chunk)
        if right == len(chunks):
            return right - 1
        if right == 0 or chunks[right] == chunk:
            return right
        if chunks[right - 1] == 0:
            return right  # a batch with a prefill runs other kernels than one without
        return right if chunks[right] - chunk < chunk - chunks[right - 1] else right - 1


def read_skew(file: Path) -> SkewTable:
    """Read ``skew_fit.csv``; a bucket without a sample takes the value of the nearest one that has."""
    rows = read_table(file, COLUMNS)
    columns = [
        rows.whole("pc").astype(np.float64).tolist(),
        *(_uppers(rows, name) for name in COLUMNS[1:5]),
    ]
    buckets: dict[tuple[float, ...], float] = {}
    lines: dict[tuple[float, ...], int] = {}
    for row, (key, alpha) in enumerate(
        zip(zip(*columns, strict=True), rows.numbers("alpha").tolist(), strict=True)
    ):
        if key in buckets:
            raise rows.error(row, f"repeats the bucket of line {lines[key]}")
        buckets[key] = alpha
        lines[key] = int(rows.lines[row])
    axes = [sorted({key[axis] for key in buckets}) for axis in range(5)]
    table = np.full([len(axis) for axis in axes], np.nan)
    for key, alpha_of_bucket in buckets.items():
        table[tuple(axis.index(k) for axis, k in zip(axes, key, strict=True))] = alpha_of_bucket
    for axis in (4, 1, 3, 2, 0):
        table = _filled_from_nearest(table, axis)
    return SkewTable([int(chunk) for chunk in axes[0]], axes[1:], table)


def read_uneven(file: Path) -> NDArray[np.float64]:
    """Uneven decode batches without a prefill of the ``skew.csv`` of a bundle, shape [5, batches].

    Requests, how many of them are long, KV of the others, KV of the long ones, and the time over that of as many
    requests with the mean KV.
    """
    rows = read_table(file, ("regime", *UNEVEN_COLUMNS))
    pure = np.array([regime == "pure" for regime in rows.texts("regime")])
    columns = [rows.numbers(name)[pure] for name in UNEVEN_COLUMNS]
    return np.stack([*columns[:4], columns[5] / columns[4]])


def _uppers(table: Table, column: str) -> list[float]:
    """Largest value of the bucket that each label of a column names."""
    uppers = []
    for row, label in enumerate(table.texts(column)):
        match = _LABEL.fullmatch(label.strip())
        if match is None:
            raise table.error(row, f"{column} is {label!r}: not a label such as n<=8")
        finite = float(match["number"]) * _SCALE[match["unit"]]
        uppers.append(np.inf if match["sign"] == ">" else finite)
    return uppers


def _filled_from_nearest(table: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Replace NaN by the nearest number along ``axis``, the lower of two equally near."""
    moved = np.moveaxis(table, axis, -1)
    size = moved.shape[-1]
    distance = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :]).astype(np.float64)
    cost = np.where(np.isnan(moved)[..., None, :], np.inf, distance)
    nearest = np.argmin(cost, axis=-1)
    return np.moveaxis(np.take_along_axis(moved, nearest, axis=-1), -1, axis)

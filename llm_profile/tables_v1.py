"""Measured tables in the published layout, ``{profile_dir}/{hardware}/{model}/tp{N}/``.

``layers.csv`` has a row for each layer and token count, ``attention.csv`` (:mod:`llm_profile.attention_csv`)
one for each measured attention shot. Tables answer only for what was measured: 16-bit weights and KV.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_csv import read_attention
from llm_profile.attention_v1 import AttentionTable
from llm_profile.hardware import datasheet_bandwidth_gbps
from llm_profile.layers import LAYERS, kv_bytes_per_token
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source

PROJECT_TABLE_DIR = Path(__file__).resolve().parent / "perf_models"
LAYER_COLUMNS = ["layer_name", "input", "kv_cache", "tp_size", "latency(ns)"]
TABLE_BITS = 16
BANDWIDTH_TOLERANCE = 0.05
"""A cluster config may round a card's bandwidth this much and still mean the measured card."""


class LayerCurve:
    """Time of one layer by token count: measured points, straight lines between and beyond them.

    >>> curve = LayerCurve(np.array([1, 3]), np.array([10.0, 30.0]))
    >>> curve.ns(np.array([1, 2, 5])).tolist(), str(curve.source(2)), str(curve.source(5))
    ([10, 20, 50], 'interpolated', 'extrapolated')
    """

    def __init__(self, tokens: NDArray[np.int64], ns: NDArray[np.float64]) -> None:
        self._measured = tokens
        self._last = int(tokens[-1])
        self._ns = np.rint(np.interp(np.arange(self._last + 1), tokens, ns)).astype(np.int64)
        self._slope_ns = tail_slope(tokens.astype(np.float64), ns)

    def ns(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time for each of ``tokens``."""
        inside = self._ns[np.minimum(tokens, self._last)]
        beyond = np.maximum(tokens - self._last, 0)
        return inside if not beyond.any() else inside + np.rint(beyond * self._slope_ns).astype(np.int64)

    def source(self, tokens: int) -> Source:
        """How :meth:`ns` gets the number of one token count."""
        if not self._measured[0] <= tokens <= self._last:
            return Source.EXTRAPOLATED
        return Source.MEASURED if np.isin(tokens, self._measured) else Source.INTERPOLATED


def tail_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Least-squares slope of the last quarter of a sorted curve (at least two points), never negative.

    More than the last two points, because neighbours of a measured table differ by noise.
    """
    if x.size < 2:
        return 0.0
    keep = x >= min(x[-2], x[-1] - 0.25 * (x[-1] - x[0]))
    return max(0.0, float(np.polyfit(x[keep], y[keep], 1)[0]))


class TableLatencyModel:
    """Latencies read from tables; implements :class:`~llm_profile.protocol.LatencyModel`."""

    step_overhead_ns = 0

    def __init__(self, name: str, curves: dict[str, LayerCurve], attention: AttentionTable) -> None:
        self.name = name
        self._curves = curves
        self._attention = attention

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one dense layer for each of ``tokens``; 0 for k_proj and v_proj fused into q_proj."""
        return self._curve(layer).ns(np.asarray(tokens))

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention of a batch, priced request by request."""
        return self._attention.ns(prefill_q, prefill_context, decode_kv)

    def source(self, layer: str, tokens: int) -> Source:
        """Measured, interpolated or extrapolated; attention of a mixed batch is at best interpolated."""
        return self._attention.source(tokens) if layer == "attn" else self._curve(layer).source(tokens)

    def _curve(self, layer: str) -> LayerCurve:
        try:
            return self._curves[layer]
        except KeyError:
            raise InputError(self.name, layer, "the tables have no rows for this layer") from None


def table_dirs(query: LatencyQuery) -> tuple[Path, ...]:
    """Folders searched for tables."""
    if query.profile_dir is not None:
        return (query.profile_dir,)
    return (Path.cwd() / "llm_profile" / "perf_models", PROJECT_TABLE_DIR)


def known_tables(query: LatencyQuery) -> list[str]:
    """Hardware names that have tables of some model."""
    found = (file.relative_to(root).parts[0] for root in table_dirs(query) for file in _layer_files(root))
    return sorted(set(found))


def open_tables(query: LatencyQuery) -> TableLatencyModel:
    """Read the tables of ``query``; :class:`NoLatencyError` if there are none that fit it."""
    key = f"{query.hardware}/{query.model.name}/tp{query.tp_size}"
    folder = next((d / key for d in table_dirs(query) if (d / key / "layers.csv").is_file()), None)
    if folder is None:
        raise NoLatencyError("", "hardware", f"no tables {key}/layers.csv; {_tables_of(query)}")
    bandwidth_gbps = _check_measured_conditions(query, folder)
    curves = read_layers(folder / "layers.csv", query.model, query.tp_size)
    attention = read_attention(
        folder,
        query.model,
        query.tp_size,
        prompt_ns=_prompt_rows(folder / "layers.csv"),
        floor_ns_per_token=_read_floor(query, bandwidth_gbps),
    )
    return TableLatencyModel(f"tables:{key}", curves, attention)


def read_layers(file: Path, model: ModelConfig, tp_size: int) -> dict[str, LayerCurve]:
    """Read ``layers.csv``: a curve for each layer name.

    Tables without k_proj and v_proj have them fused into q_proj (TPU): both are 0 there. MoE models have no
    gate_proj, up_proj, act_fn and down_proj. Any other gap is an error.
    """
    rows = read_layer_points(file, tp_size)
    curves = {name: _curve(points) for name, points in rows.items()}
    if "q_proj" in curves and "k_proj" not in curves and "v_proj" not in curves:
        last = np.array([1, curves["q_proj"]._last], dtype=np.int64)
        curves["k_proj"] = curves["v_proj"] = LayerCurve(last, np.zeros(2))
    optional = {"attn"} | ({"gate_proj", "up_proj", "act_fn", "down_proj"} if model.is_moe else set())
    missing = [layer for layer in LAYERS if layer not in curves and layer not in optional]
    if missing:
        raise InputError(file, "layer_name", f"no rows for {', '.join(missing)}")
    return curves


def _curve(points: list[tuple[int, float]]) -> LayerCurve:
    by_tokens = dict(points)
    tokens = np.array(sorted(by_tokens), dtype=np.int64)
    return LayerCurve(tokens, np.array([by_tokens[t] for t in tokens.tolist()]))


def read_layer_points(file: Path, tp_size: int) -> dict[str, list[tuple[int, float]]]:
    """(tokens, ns) of each layer; the last of repeated rows wins."""
    rows: dict[str, list[tuple[int, float]]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        if header != LAYER_COLUMNS:
            expected, got = ",".join(LAYER_COLUMNS), ",".join(header)
            raise InputError(file, "line 1", f"expected the columns {expected}, not {got or 'an empty file'}")
        for row in reader:
            try:
                name, tokens, _, tp, ns = row
                point = (int(tokens), float(ns))
                tp_matches = int(tp) == tp_size
            except ValueError:
                raise InputError(file, f"line {reader.line_num}", f"not a row of the table: {row}") from None
            if not tp_matches:
                raise InputError(file, f"line {reader.line_num}", f"tp_size {tp} in a tp{tp_size} folder")
            if point[0] < 1 or not 0 <= point[1] < float("inf"):
                raise InputError(
                    file, f"line {reader.line_num}", f"input must be >= 1 and latency >= 0, not {row}"
                )
            rows.setdefault(name, []).append(point)
    return rows


def _prompt_rows(file: Path) -> dict[int, float]:
    """``attn`` rows of layers.csv: a whole prompt of n tokens without history, ns by n."""
    with file.open(newline="", encoding="utf-8") as stream:
        return {int(row[1]): float(row[4]) for row in csv.reader(stream) if row[0] == "attn"}


def _check_measured_conditions(query: LatencyQuery, folder: Path) -> float | None:
    """Refuse precisions and bandwidths the tables were not measured with; return the card's bandwidth."""
    for field, bits in (("weight_bits", query.weight_bits), ("kv_bits", query.kv_bits)):
        if bits != TABLE_BITS:
            raise NoLatencyError(folder, field, f"{bits}: these tables were measured with {TABLE_BITS} bits")
    measured = datasheet_bandwidth_gbps(query.hardware)
    wanted = query.mem_bw_gbps
    if measured and wanted and abs(wanted / measured - 1) > BANDWIDTH_TOLERANCE:
        raise NoLatencyError(
            folder, "mem_bw", f"{wanted:g} GB/s: these tables were measured on a card with {measured:g} GB/s"
        )
    return measured or wanted


def _read_floor(query: LatencyQuery, bandwidth_gbps: float | None) -> float:
    """Nanoseconds to read the KV of one token once; 0 when the bandwidth is unknown."""
    bytes_per_token = kv_bytes_per_token(query.model, query.tp_size, query.kv_bits)
    return bytes_per_token / bandwidth_gbps if bandwidth_gbps else 0.0


def _tables_of(query: LatencyQuery) -> str:
    roots = table_dirs(query)
    found = sorted(file.relative_to(root).parent.as_posix() for root in roots for file in _layer_files(root))
    return f"found: {', '.join(found) or 'no tables'} (in {', '.join(map(str, roots))})"


def _layer_files(root: Path) -> Iterator[Path]:
    return root.rglob("layers.csv") if root.is_dir() else iter(())

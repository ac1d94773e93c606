"""From the layers that a bundle measures (fused ones, as engines run them) to those of the simulator.

A fused layer is split by a share of its width, so that the parts add up to the measured time to the
nanosecond: the share only says where in a block the time is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.layer_curve import LayerCurve
from llm_profile.layers import GATE, LAYERS, MLP_LAYERS, layer_shape
from llm_profile.model_config import ModelConfig
from llm_profile.plausible import refuse_impossible_layers
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.table_csv import MICROSECONDS, Rows, layer_rows, read_table

Span = tuple[str, float, float]
"""A measured layer, and where a part of it begins and ends (0 to 1)."""

_WHOLE = {
    "embedding": "embedding",
    "input_layernorm": "layernorm",
    "rope": "rotary_emb",
    "o_proj": "o_proj",
    "post_layernorm": "layernorm",
    "act_fn": "act_fn",
    "down_proj": "down_proj",
    "final_layernorm": "final_layernorm",
}
"""Layers measured one by one; ``layernorm`` is either norm of a block."""
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_QK_NORM = ("q_proj", "k_proj")
"""Layers that the per-head norms of Qwen3 are counted with."""


class SplitCurves:
    """Time of each simulated layer: the sum of its parts of measured layers."""

    def __init__(self, file: Path, curves: Mapping[str, LayerCurve], parts: Mapping[str, list[Span]]) -> None:
        self._file = file
        self._curves = curves
        self._parts = parts

    def ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of ``layer`` for each of ``tokens``."""
        total = np.zeros(np.shape(tokens), dtype=np.int64)
        for measured, begin, end in self._of(layer):
            ns = self._curves[measured].ns(tokens)
            # differences of rounded sums: the parts of a measured layer add up exactly
            total += np.rint(ns * end).astype(np.int64) - np.rint(ns * begin).astype(np.int64)
        return total

    def source(self, layer: str, tokens: int) -> Source:
        """The least certain of the measured layers behind ``layer``."""
        order = (Source.MEASURED, Source.INTERPOLATED, Source.EXTRAPOLATED)
        found = (self._curves[name].source(tokens) for name, _, _ in self._of(layer))
        return max(found, key=order.index, default=Source.MEASURED)

    def _of(self, layer: str) -> list[Span]:
        try:
            return self._parts[layer]
        except KeyError:
            raise InputError(self._file, layer, "the bundle has no rows for this layer") from None


def read_layer_rows(file: Path, count_column: str) -> dict[str, Rows]:
    """Rows of ``layer,{count_column},time_us`` by layer, sorted by the count (tokens or sequences)."""
    times = ("time_us", MICROSECONDS)
    return layer_rows(read_table(file, ("layer", count_column), times), "layer", count_column, times)


def read_bundle_layers(folder: Path, query: LatencyQuery) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Rows of ``dense.csv`` and of ``per_sequence.csv`` by measured layer, times in a possible unit."""
    dense = read_layer_rows(folder / "dense.csv", "tokens")
    sampling = read_layer_rows(folder / "per_sequence.csv", "sequences")
    refuse_impossible_layers(dense | sampling, query, _FUSED)
    return dense, sampling


def read_layer_curves(folder: Path, query: LatencyQuery) -> SplitCurves:
    """Read ``dense.csv`` (by tokens) and ``per_sequence.csv`` (by sequences that need logits)."""
    file, sampling_file = folder / "dense.csv", folder / "per_sequence.csv"
    dense, sampling = read_bundle_layers(folder, query)
    parts = _dense_parts(file, dense, query.model, query.tp_size)
    _refuse_unknown(sampling_file, sampling, ("lm_head", "sampler"))
    if "lm_head" not in sampling:
        raise InputError(sampling_file, "layer", "no rows for lm_head")
    parts["lm_head"] = [(name, 0.0, 1.0) for name in ("lm_head", "sampler") if name in sampling]
    curves = {
        name: LayerCurve(rows.keys[:, 0], rows.ns) for name, rows in (*dense.items(), *sampling.items())
    }
    return SplitCurves(file, curves, parts)


def _dense_parts(
    file: Path, dense: Mapping[str, Rows], model: ModelConfig, tp_size: int
) -> dict[str, list[Span]]:
    parts: dict[str, list[Span]] = {layer: [(name, 0.0, 1.0)] for layer, name in _WHOLE.items()}
    for fused, layers in _FUSED.items():
        if not (model.is_moe and layers[0] in MLP_LAYERS):
            for layer, begin, end in _shares(model, layers, tp_size):
                parts[layer] = [(fused, begin, end)]
    known = {*_WHOLE.values(), *_FUSED, "qk_norm"}
    if model.has_qk_norm:
        for layer, begin, end in _shares(model, _QK_NORM, tp_size):
            parts[layer].append(("qk_norm", begin, end))
    if model.is_moe:
        parts[GATE] = []  # measured with the experts, unless it has rows
        known.add(GATE)
    for layer in (*LAYERS, GATE):
        if layer in dense and layer != "attn":  # measured by itself: no need to split
            parts[layer] = [(layer, 0.0, 1.0)]
    if model.is_moe:
        parts = {layer: spans for layer, spans in parts.items() if layer not in MLP_LAYERS}
    _refuse_unknown(file, dense, (*known, *LAYERS))
    missing = sorted({name for spans in parts.values() for name, _, _ in spans} - set(dense))
    if missing:
        raise InputError(file, "layer", f"no rows for {', '.join(missing)}")
    _refuse_unused(file, dense, parts)
    return parts


def _shares(model: ModelConfig, layers: tuple[str, ...], tp_size: int) -> list[Span]:
    """Where each of ``layers`` begins and ends in the fused one, by output width."""
    widths = [layer_shape(model, layer, tp_size).output_width for layer in layers]
    edges = np.cumsum([0, *widths]) / sum(widths)
    return [(layer, b, e) for layer, (b, e) in zip(layers, pairwise(edges.tolist()), strict=True)]


def _refuse_unknown(file: Path, tables: Mapping[str, Rows], known: tuple[str, ...]) -> None:
    for name, rows in tables.items():
        if name not in known or name == "attn":
            names = ", ".join(sorted(set(known) - {"attn"}))
            raise InputError(file, f"line {int(rows.lines.min())}", f"unknown layer {name!r}; known: {names}")


def _refuse_unused(file: Path, dense: Mapping[str, Rows], parts: Mapping[str, list[Span]]) -> None:
    """A measured layer that nothing charges would be time lost without a word."""
    used = {name for spans in parts.values() for name, _, _ in spans}
    for name in dense:
        if name not in used:
            message = f"{name} is not a layer of this model, or its parts are here too"
            raise InputError(file, f"line {int(dense[name].lines.min())}", message)

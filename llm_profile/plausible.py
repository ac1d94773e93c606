"""Find times in the wrong unit: bounds that no device reaches, wide enough for a CPU and a wafer-scale card.

Units differ by a thousand, real devices in these quantities by less: a norm of a few tokens takes 0.3 us on a
large card and 30 us in eager mode; memory moves 5 to 10 000 bytes a nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from llm_profile.hardware import datasheet_bandwidth_gbps
from llm_profile.layers import GEMM_LAYERS, heads_per_rank, kv_bytes_per_token, layer_shape
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery
from llm_profile.table_csv import Floats, Ints, Rows

FEW_TOKENS = 16
"""A row of so few tokens is a kernel's launch and a read of its weights."""
LEAST_KERNEL_NS, MOST_KERNEL_NS = 100.0, 3e6
"""No kernel is launched and done faster; none that hardly computes takes longer."""
MARGIN = 100.0
"""Weights are never read this many times faster than memory allows, nor slower than other layers' of the file."""
FASTEST_GBPS = 1000.0
"""Bandwidth to allow for (times the margin) on a card that has no description."""
SLOW_GBPS, SLOW_FLOPS_NS = 1.0, 10.0
"""Attention that reads and computes slower than this has its times in another unit."""
FAST_FLOPS_NS = 1e8
NORMS = frozenset(("input_layernorm", "post_layernorm", "final_layernorm", "layernorm"))


def refuse_impossible_layers(
    layers: Mapping[str, Rows], query: LatencyQuery, parts: Mapping[str, tuple[str, ...]]
) -> None:
    """Raise where a layer of few tokens takes a time that no device takes.

    ``parts`` are the layers that each measured one is made of.
    """
    gbps = datasheet_bandwidth_gbps(query.hardware) or FASTEST_GBPS
    weights = {name: _weight_bytes(query, parts.get(name, (name,))) for name in layers}
    first = {name: rows for name, rows in layers.items() if rows.keys[0, 0] <= FEW_TOKENS}
    for name, rows in first.items():
        ns, fastest_ns = float(rows.ns[0]), weights[name] / gbps
        alone = weights[name] or name in NORMS  # others may be computed within another layer
        if (alone and ns < LEAST_KERNEL_NS) or ns * MARGIN < fastest_ns:
            at = f"; its weights alone take {rows.unit.text(fastest_ns)} to read" if fastest_ns else ""
            raise rows.error(0, _message(name, rows, "fast", at))
        if name in NORMS and ns > MOST_KERNEL_NS:
            raise rows.error(0, _message(name, rows, "slow", ""))
    read = {name: weights[name] / float(rows.ns[0]) for name, rows in first.items() if weights[name]}
    best = max(read.values(), default=0.0)
    for name, gbps_here in read.items():
        rows = first[name]
        if rows.ns[0] > MARGIN * weights[name] / best + MOST_KERNEL_NS:
            at = f"; other layers here read weights {best / gbps_here:.0f} times as fast"
            raise rows.error(0, _message(name, rows, "slow", at))


def _message(name: str, rows: Rows, how: str, at: str) -> str:
    took = f"{name} with {int(rows.keys[0, 0])} takes {rows.unit.text(float(rows.ns[0]))}"
    return f"{took}: no device is that {how}{at}; are these {rows.unit.plural}?"


def _weight_bytes(query: LatencyQuery, layers: tuple[str, ...]) -> float:
    """Bytes of the weights that a measured layer reads; 0 of what is no matrix of this model."""
    model = query.model
    mlp = ("gate_proj", "up_proj", "down_proj") if model.is_moe else ()
    known = [layer for layer in layers if layer in GEMM_LAYERS and layer not in mlp]
    elements = sum(layer_shape(model, layer, query.tp_size).weight_elements for layer in known)
    return elements * query.weight_bits / 8


def refuse_impossible_attention(
    rows: Rows, pairs: Floats | Ints, kv_tokens: Ints, query: LatencyQuery, say: Callable[[int], str]
) -> None:
    """Raise where a batch of ``pairs`` (query, key) that reads ``kv_tokens`` takes a time that no device takes.

    ``say`` names the batch of a row.
    """
    least, most = _attention_bounds(query.model, query.tp_size, query.kv_bits, pairs, kv_tokens)
    wrong = np.flatnonzero((rows.ns < least) | (rows.ns > most))
    if wrong.size:
        row = int(wrong[0])
        how = "fast" if rows.ns[row] < least[row] else "slow"
        took = f"{say(row)} takes {rows.unit.text(float(rows.ns[row]))}"
        raise rows.error(row, f"{took}: no device is that {how}; are these {rows.unit.plural}?")


def _attention_bounds(
    model: ModelConfig, tp_size: int, kv_bits: int, pairs: Floats | Ints, kv_tokens: Ints
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    heads, _ = heads_per_rank(model, tp_size)
    flops = 4.0 * heads * model.head_dim * np.asarray(pairs, dtype=np.float64)
    read = kv_tokens * float(kv_bytes_per_token(model, tp_size, kv_bits))
    least = np.maximum(LEAST_KERNEL_NS, np.maximum(flops / FAST_FLOPS_NS, read / (FASTEST_GBPS * MARGIN)))
    return least, MOST_KERNEL_NS + read / SLOW_GBPS + flops / SLOW_FLOPS_NS

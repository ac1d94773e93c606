"""Read ``layers.csv`` of the published layout: a row for each layer and token count, in nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llm_profile.layers import QKV_LAYERS
from llm_profile.plausible import refuse_impossible_layers
from llm_profile.protocol import LatencyQuery
from llm_profile.table_csv import NANOSECONDS, NOISY_FALL, Rows, layer_rows, read_table

LAYER_COLUMNS = ["layer_name", "input", "kv_cache", "tp_size", "latency(ns)"]


def read_layer_rows(file: Path, query: LatencyQuery) -> dict[str, Rows]:
    """Rows of each layer, sorted by tokens; whatever cannot have been measured is an error."""
    times = (LAYER_COLUMNS[-1], NANOSECONDS)
    table = read_table(file, LAYER_COLUMNS[:-1], times)
    table.require("tp_size", query.tp_size, f" as its folder tp{query.tp_size} says")
    rows = layer_rows(table, "layer_name", "input", times, NOISY_FALL)
    refuse_impossible_layers(rows, query, _fused(rows))
    return rows


def is_fused_qkv(rows: Mapping[str, object]) -> bool:
    """Whether q_proj is q, k and v in one kernel (TPU)."""
    return "q_proj" in rows and "k_proj" not in rows and "v_proj" not in rows


def _fused(rows: Mapping[str, Rows]) -> dict[str, tuple[str, ...]]:
    return {"q_proj": QKV_LAYERS} if is_fused_qkv(rows) else {}

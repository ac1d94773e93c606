"""Take the rows of one query out of the package ``aiconfigurator-core``; the only module that imports it.

Matrix layers are asked of its engine, which interpolates between measured matrices, at the token counts that
were measured. Attention is read from its measured rows themselves, because the engine adds formulas for rope
and for writing KV to a prefill, and scales prefills on a history below what reading the KV takes.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from llm_profile.layers import heads_per_rank, layer_shape
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source
from llm_profile.silicon_systems import SYSTEMS
from llm_profile.silicon_table import PACKAGE, Floats, GemmRows, SiliconTable

BACKEND = "vllm"
QUANT_MODES = {8: "fp8", 16: "bfloat16"}
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Engines multiply these layers in one kernel."""
NS_PER_MS = 1e6

Rows = Mapping[Any, Any]


def read_package(query: LatencyQuery, package_version: str) -> SiliconTable:
    """Build the table of ``query``; :class:`NoLatencyError` for what was not measured."""
    for field, bits in (("weight_bits", query.weight_bits), ("kv_bits", query.kv_bits)):
        if bits not in QUANT_MODES:
            raise NoLatencyError("", field, f"{bits}: {PACKAGE} has rows of 8 and 16 bits")
    with _quiet():
        database = _module("perf_database").get_database(SYSTEMS[query.hardware].name, BACKEND, "current")
        if database is None:
            raise NoLatencyError("", "hardware", f"{PACKAGE} has no {BACKEND} rows of {query.hardware}")
        prefill, decode = _attention(query, database)
        return SiliconTable(
            package_version=package_version,
            data_version=f"{BACKEND} {database.version}",
            bandwidth_gbps=database.system_spec["gpu"]["mem_bw"] / 1e9,
            gemm=_gemm(query, database),
            prefill=prefill,
            decode=decode,
            experts=_experts(query, database) if query.model.is_moe else {},
        )


def _module(name: str) -> Any:
    return importlib.import_module(f"aiconfigurator_core.sdk.{name}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the package's warnings about tables that are not used here off the terminal."""
    logger = logging.getLogger("aiconfigurator_core")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _gemm(query: LatencyQuery, database: Any) -> dict[str, GemmRows]:
    mode = _module("common").GEMMQuantMode[QUANT_MODES[query.weight_bits]]
    view = _module("engine_table_view").fetch_table_view(database, "_gemm_data") or {}
    if mode not in view:
        raise NoLatencyError("", "weight_bits", f"{query.weight_bits}: no rows of it on {query.hardware}")
    rows: Rows = view[mode]
    engine = _module("engine").EngineHandle.for_database(database)
    return {
        name: _matrix(engine, mode, rows, outputs, inputs)
        for name, (outputs, inputs) in matrices(query).items()
    }


def matrices(query: LatencyQuery) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each matrix of one rank, fused as engines fuse them."""
    groups = {**FUSED, "o_proj": ("o_proj",), "down_proj": ("down_proj",), "lm_head": ("lm_head",)}
    if query.model.is_moe:
        groups = {name: group for name, group in groups.items() if name not in ("gate_up_proj", "down_proj")}
        groups["gate"] = ("gate",)
    shapes = {
        name: [layer_shape(query.model, layer, query.tp_size) for layer in group]
        for name, group in groups.items()
    }
    return {
        name: (sum(s.output_width for s in group), group[0].input_width) for name, group in shapes.items()
    }


def _matrix(engine: Any, mode: Any, rows: Rows, outputs: int, inputs: int) -> GemmRows:
    grid = sorted(m for m, by_n in rows.items() if inputs in by_n.get(outputs, {}))
    source = Source.MEASURED
    if not grid:
        grid = sorted(rows)
        widest = max(n for by_n in rows.values() for n in by_n)
        deepest = max(k for by_n in rows.values() for by_k in by_n.values() for k in by_k)
        inside = outputs <= widest and inputs <= deepest
        source = Source.INTERPOLATED if inside else Source.EXTRAPOLATED
    op = _module("operations").GEMM("gemm", 1, outputs, inputs, mode)
    text = _module("engine").build_ops_json([op])
    ms = [
        engine.evaluate_ops_json(text, is_context=True, batch_size=1, s=m, prefix=0, x=m)[0][1] for m in grid
    ]
    return GemmRows(np.array(grid, dtype=np.int64), np.array(ms) * NS_PER_MS, source)


def _attention(query: LatencyQuery, database: Any) -> tuple[Floats, Floats]:
    """(prefill rows, decode rows)."""
    common = _module("common")
    fetch = _module("engine_table_view").fetch_table_view
    heads, kv_heads = heads_per_rank(query.model, query.tp_size)
    key = (
        0 if heads == kv_heads else kv_heads,
        query.model.head_dim,
        0,
    )  # 0: all heads are K/V heads, window
    kv_mode = common.KVCacheQuantMode[QUANT_MODES[query.kv_bits]]
    try:
        context = fetch(database, "_context_attention_data")[common.FMHAQuantMode["bfloat16"]][kv_mode]
        generation = fetch(database, "_generation_attention_data")[kv_mode]
        prefills, decodes = (_by_heads(view[key[0]][key[1]][key[2]], heads) for view in (context, generation))
    except (KeyError, TypeError):
        raise NoLatencyError(
            "",
            "hardware",
            f"{PACKAGE} has no attention rows of {heads} heads, {kv_heads} K/V heads, head_dim "
            f"{query.model.head_dim} and {query.kv_bits}-bit KV on {query.hardware}",
        ) from None
    prefill = [(n, ns) for (n, requests), ns in sorted(prefills.items()) if requests == 1]
    decode = [(requests, kv, ns) for (requests, kv), ns in sorted(decodes.items())]
    return np.array(prefill), np.array(decode)


def _experts(query: LatencyQuery, database: Any) -> dict[int, Floats]:
    """Rows of experts with evenly spread tokens, by ranks; none if this shape was not measured."""
    model = query.model
    mode = _module("common").MoEQuantMode[QUANT_MODES[query.weight_bits]]
    view = _module("engine_table_view").fetch_table_view(database, "_moe_data")
    try:
        shape: Rows = view[mode]["balanced"][model.num_experts_per_tok][model.num_experts]
        by_ranks: Rows = shape[model.hidden_size][model.moe_intermediate_size][query.expert_tp_size]
    except (KeyError, TypeError):
        return {}
    return {
        int(ranks): np.array([(n, row["latency"] * NS_PER_MS) for n, row in sorted(rows.items())])
        for ranks, rows in by_ranks.items()
    }


def _by_heads(by_heads: Rows, heads: int) -> dict[tuple[int, int], float]:
    """ns by the two inner keys; between measured head counts a straight line, KeyError beyond them."""
    if heads in by_heads:
        return _flat(by_heads[heads])
    below = max((h for h in by_heads if h < heads), default=None)
    above = min((h for h in by_heads if h > heads), default=None)
    if below is None or above is None:
        raise KeyError(heads)
    low, high = _flat(by_heads[below]), _flat(by_heads[above])
    weight = (heads - below) / (above - below)
    return {key: low[key] + (high[key] - low[key]) * weight for key in low.keys() & high.keys()}


def _flat(rows: Rows) -> dict[tuple[int, int], float]:
    return {
        (outer, inner): row["latency"] * NS_PER_MS
        for outer, inside in rows.items()
        for inner, row in inside.items()
    }

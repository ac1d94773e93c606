"""Measured points as the published layout: ``layers.csv`` and ``attention.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_profile.layers import EXPERT_LAYERS, GATE, LAYERS
from llm_profile.layers_csv import LAYER_COLUMNS
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.plan import Kind, Point
from llm_profile.profiler.samples import Stats, Times

Measured = Mapping[Point, Times]

BACKEND = "TORCH_SDPA"
_STATISTICS = ("min", "max", "mean", "median", "std")
_SHAPE_COLUMNS = (
    "n_embd",
    "n_q_head",
    "n_kv_head",
    "num_tensor_parallel_workers",
    "max_model_len",
    "batch_size",
    "prefill_chunk_size",
    "kv_cache_size",
    "is_prefill",
    "attention_backend",
)
ATTENTION_COLUMNS = (
    *(f"time_stats.attn_{phase}.{name}" for phase in ("prefill", "decode") for name in _STATISTICS),
    *_SHAPE_COLUMNS,
)
_NS_PER_MS = 1e6


def v1_files(measured: Measured, model: ModelConfig, tp_size: int) -> dict[str, str]:
    """File name and text of every v1 table that the points suffice for."""
    files = {}
    kinds = {point.kind for point in measured}
    if {Kind.SPLIT_LAYERS, Kind.SEQUENCES} <= kinds:
        files["layers.csv"] = _text(LAYER_COLUMNS, _layer_rows(measured, tp_size))
    attention = {
        point.key: times["attn"] for point, times in measured.items() if point.kind == Kind.ATTENTION
    }
    if any(key[0] == 0 for key in attention):
        files["attention.csv"] = _text(ATTENTION_COLUMNS, _attention_rows(attention, model, tp_size))
    return files


def _text(columns: tuple[str, ...] | list[str], rows: Iterator[str]) -> str:
    return "\n".join([",".join(columns), *rows]) + "\n"


def _layer_rows(measured: Measured, tp_size: int) -> Iterator[str]:
    """Rows by token count, then in the order of a forward pass; ``attn`` is a prompt without history."""
    rows: dict[tuple[int, int], str] = {}
    order = [*LAYERS, *(name for name in (GATE, *EXPERT_LAYERS) if name not in LAYERS)]
    kinds = (Kind.SPLIT_LAYERS, Kind.EXPERT, Kind.SEQUENCES)
    for point, times in measured.items():
        prompt = point.kind == Kind.ATTENTION and point.key[1:] == (0, 0, 0)
        if point.kind not in kinds and not prompt:
            continue
        for name, stats in times.items():
            if name in order:
                n = point.key[0]
                rows[n, order.index(name)] = f"{name},{n},0,{tp_size},{round(stats.median)}"
    return (rows[key] for key in sorted(rows))


def _attention_rows(
    attention: Mapping[tuple[int, ...], Stats], model: ModelConfig, tp_size: int
) -> Iterator[str]:
    """Chunks count all their keys as ``kv_cache_size``, decodes the KV of the whole batch, as published."""
    shape = (
        f"{model.hidden_size},{model.num_attention_heads},{model.num_key_value_heads},{tp_size},"
        f"{model.max_position_embeddings}"
    )
    for (chunk, context, requests, kv), stats in sorted(attention.items()):
        ms = ",".join(f"{getattr(stats, name) / _NS_PER_MS:.9g}" for name in _STATISTICS)
        if chunk and not requests:
            yield f"{ms},,,,,,{shape},1,{chunk},{context + chunk},True,{BACKEND}"
        elif requests and not chunk:
            yield f",,,,,{ms},{shape},{requests},0,{requests * kv},False,{BACKEND}"

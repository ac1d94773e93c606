"""Read the attention tables of the published layout.

``attention.csv`` has one row a shot. Of a prefill, ``kv_cache_size`` is all keys, the chunk's own included,
unless there is a row with fewer keys than chunk: then it is the tokens already cached (TPU). Of a decode it is
the **batch's total** KV (in the TPU variant of the format, with ``p50_ns``, it is per request).
Without ``attention.csv``, the filled grids in ``predictions/`` are read instead.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from llm_profile.attention_v1 import AttentionTable, DecodeCurves, Points, PrefillCurves
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import NoLatencyError


def read_attention(
    folder: Path, model: ModelConfig, tp_size: int, *, prompt_ns: dict[int, float], floor_ns_per_token: float
) -> AttentionTable:
    """Read the attention tables of ``folder``; ``prompt_ns`` are prompts without history from layers.csv."""
    file = folder / "attention.csv"
    if file.is_file():
        prefill, decode = read_measured(file, model, tp_size)
    else:
        prefill, decode = _read_predictions(folder)
        prompt_ns = {}
    if not (prefill or prompt_ns) or not decode:
        missing = "decode" if prefill or prompt_ns else "prefill"
        raise InputError(file, "is_prefill", f"no {missing} rows")
    return AttentionTable(PrefillCurves(prefill, prompt_ns), DecodeCurves(decode), floor_ns_per_token)


def read_measured(file: Path, model: ModelConfig, tp_size: int) -> tuple[Points, Points]:
    """Points of ``attention.csv``, medians in ns; GPU files are in ms with the batch's total KV."""
    prefill: Points = {}
    decode: Points = {}
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        column = {name: i for i, name in enumerate(next(reader, []))}
        per_request = "p50_ns" in column
        scale = 1.0 if per_request else 1e6
        names = ("p50_ns", "p50_ns") if per_request else _GPU_MEDIANS
        try:
            prefill_at, decode_at = (column[name] for name in names)
            shape_at = tuple(column[name] for name in _SHAPE_COLUMNS)
        except KeyError as error:
            raise InputError(file, "line 1", f"no column {error.args[0]}") from None
        checks = [] if per_request else _shape_checks(file, column, model, tp_size)
        for row in reader:
            try:
                batch, chunk, kv = (int(row[i]) for i in shape_at[:3])
                is_prefill = row[shape_at[3]] == "True"
                ns = float(row[prefill_at if is_prefill else decode_at]) * scale
                wrong = next((c for c in checks if int(row[c[0]]) != c[1]), None)
            except (ValueError, IndexError):
                raise InputError(file, f"line {reader.line_num}", f"not a row of the table: {row}") from None
            if wrong:
                raise InputError(
                    file, f"line {reader.line_num}", f"{wrong[2]} is {row[wrong[0]]}, not {wrong[1]}"
                )
            if is_prefill:
                if batch == 1:
                    prefill.setdefault(chunk, {})[kv] = ns
            else:
                _add_decode(decode, batch, kv * batch if per_request else kv, ns)
    return _by_context(prefill), decode


def _by_context(prefill: Points) -> Points:
    """Prefill rows by tokens already cached; the GPU tables count all keys (see docs/latencies.md)."""
    if any(keys < n for n, rows in prefill.items() for keys in rows):
        return prefill
    return {n: {keys - n: ns for keys, ns in rows.items()} for n, rows in prefill.items()}


_GPU_MEDIANS = ("time_stats.attn_prefill.median", "time_stats.attn_decode.median")
_SHAPE_COLUMNS = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill")


def _shape_checks(
    file: Path, column: dict[str, int], model: ModelConfig, tp_size: int
) -> list[tuple[int, int, str]]:
    """(column, value it must have, its name) of what identifies the model."""
    wanted = {
        "n_q_head": model.num_attention_heads,
        "n_kv_head": model.num_key_value_heads,
        "num_tensor_parallel_workers": tp_size,
    }
    missing = [name for name in wanted if name not in column]
    if missing:
        raise InputError(file, "line 1", f"no column {missing[0]}")
    return [(column[name], value, name) for name, value in wanted.items()]


def _add_decode(decode: Points, batch: int, total_kv: int, ns: float) -> None:
    """Keep shots in which every request has at least one token; others measured an empty kernel."""
    if total_kv >= batch:
        decode.setdefault(batch, {})[total_kv] = ns


def _read_predictions(folder: Path) -> tuple[Points, Points]:
    """Points of the filled grids, in ns."""
    prefill: Points = {}
    decode: Points = {}
    prefill_file = folder / "predictions" / "attn_prefill_predictions.csv"
    decode_file = folder / "predictions" / "attn_decode_predictions.csv"
    for file in (prefill_file, decode_file):
        if not file.is_file():
            raise NoLatencyError(
                folder, "", "has neither attention.csv nor predictions/ of prefill and decode"
            )
    for kv, chunk, ns in _read_grid(prefill_file, ["kv_cache_size", "prefill_chunk_size", "prediction"]):
        prefill.setdefault(int(chunk), {})[int(kv)] = ns
    for batch, kv, ns in _read_grid(decode_file, ["batch_size", "kv_cache_size", "prediction"]):
        _add_decode(decode, int(batch), int(kv), ns)
    return prefill, decode


def _read_grid(file: Path, columns: list[str]) -> list[list[float]]:
    with file.open(encoding="utf-8") as stream:
        header = stream.readline().strip().split(",")
        if header != columns:
            raise InputError(
                file, "line 1", f"expected the columns {','.join(columns)}, not {','.join(header)}"
            )
        try:
            grid: list[list[float]] = np.loadtxt(stream, delimiter=",", ndmin=2).tolist()
        except ValueError as error:
            raise InputError(file, "", f"not a table of numbers: {error}") from None
    return grid

"""Read the attention tables of the published layout.

``attention.csv`` has one row a shot. Of a prefill, ``kv_cache_size`` is all keys, the chunk's own included,
unless there is a row with fewer keys than chunk: then it is the tokens already cached (TPU). Of a decode it is
the **batch's total** KV (in the TPU variant of the format, with ``p50_ns``, it is per request).
Without ``attention.csv``, the filled grids in ``predictions/`` are read instead.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError, read_json_object
from llm_profile.attention_v1 import (
    AttentionTable,
    DecodeCurves,
    Points,
    PredictedAttention,
    PrefillCurves,
)
from llm_profile.plausible import refuse_impossible_attention
from llm_profile.protocol import LatencyQuery, NoLatencyError
from llm_profile.table_csv import (
    MILLISECONDS,
    NANOSECONDS,
    NOISY_FALL,
    Rows,
    Table,
    read_key_rows,
    read_table,
    refuse_cliffs_along,
    repeats,
)

SHAPE_COLUMNS = ("batch_size", "prefill_chunk_size", "kv_cache_size")
GPU_MEDIANS = ("time_stats.attn_prefill.median", "time_stats.attn_decode.median")
TPU_MEDIAN = "p50_ns"
REPEAT = 2.0
"""A shot may be there again (each published table repeats a few hundred), within this factor of the first."""
PREFILL_GRID = ("kv_cache_size", "prefill_chunk_size")
DECODE_GRID = ("batch_size", "kv_cache_size")
BATCH, CHUNK, KV = range(3)


def read_attention(
    folder: Path, query: LatencyQuery, *, prompt_ns: dict[int, float], floor_ns_per_token: float
) -> AttentionTable:
    """Read the attention tables of ``folder``; ``prompt_ns`` are prompts without history from layers.csv."""
    file = folder / "attention.csv"
    measured = None
    if file.is_file():
        prefill, decode = read_measured(file, query)
        if not (prefill or prompt_ns) or not decode:
            missing = "decode" if prefill or prompt_ns else "prefill"
            raise InputError(file, "is_prefill", f"no {missing} rows")
        measured = AttentionTable(PrefillCurves(prefill, prompt_ns), DecodeCurves(decode), floor_ns_per_token)
        if not query.predicted_attention:
            return measured
    prefill, decode = read_predictions(folder, query)
    curves = PrefillCurves(prefill, {}), DecodeCurves(decode)
    return PredictedAttention(*curves, floor_ns_per_token, measured)


def read_measured(file: Path, query: LatencyQuery) -> tuple[Points, Points]:
    """Points of ``attention.csv``, medians in ns: prefill by chunk and context, decode by requests and total KV.

    GPU files are in ms with the batch's total KV. Of a repeated shot the last counts.
    """
    prefill, decode = read_measured_rows(file, query)
    return _points(prefill.keys[:, 1:], prefill.ns), _points(decode.keys[:, [BATCH, KV]], decode.ns)


def read_measured_rows(file: Path, query: LatencyQuery) -> tuple[Rows, Rows]:
    """Prefill rows (1, chunk, context) and decode rows (requests, 0, total KV) of ``attention.csv``, in ns."""
    table = read_table(file, (*SHAPE_COLUMNS, "is_prefill"))
    if TPU_MEDIAN not in table.header:
        _check_gpu_columns(table, query)
    is_prefill = np.array([text.strip() == "True" for text in table.texts("is_prefill")])
    neither = [text not in ("True", "False") for text in map(str.strip, table.texts("is_prefill"))]
    if any(neither):
        row = neither.index(True)
        raise table.error(row, f"is_prefill is {table.texts('is_prefill')[row]!r}: must be True or False")
    prefill = _by_context(_shots(table, is_prefill, GPU_MEDIANS[0]))
    decode = _shots(table, ~is_prefill, GPU_MEDIANS[1])
    if TPU_MEDIAN in table.header:
        decode.keys[:, KV] *= decode.keys[:, BATCH]
    prefill = prefill.take(prefill.keys[:, BATCH] == 1)
    decode = decode.take(decode.keys[:, KV] >= decode.keys[:, BATCH])  # others measured an empty kernel
    _check_rows(prefill, decode, query)
    return prefill, decode


def _check_gpu_columns(table: Table, query: LatencyQuery) -> None:
    """The rows must be of this model and tensor-parallel size."""
    wanted = {
        "n_q_head": query.model.num_attention_heads,
        "n_kv_head": query.model.num_key_value_heads,
        "num_tensor_parallel_workers": query.tp_size,
    }
    for column in (*GPU_MEDIANS, *wanted):
        if column not in table.header:
            raise InputError(
                table.file, "line 1", f"no column {column}; columns are {','.join(table.header)}"
            )
    for column, value in wanted.items():
        table.require(column, value)


def _shots(table: Table, rows: NDArray[np.bool_], median: str) -> Rows:
    """Rows (batch, chunk, keys) of one kind of shot."""
    if not rows.any():
        nothing = np.zeros(0)
        return Rows(table.file, np.zeros((0, 3), dtype=np.int64), nothing, nothing.astype(np.int64))
    own = table.take(rows)
    column, unit = (TPU_MEDIAN, NANOSECONDS) if TPU_MEDIAN in table.header else (median, MILLISECONDS)
    least = (1, 1 if median == GPU_MEDIANS[0] else 0, 0)
    keys = [own.whole(name, at_least) for name, at_least in zip(SHAPE_COLUMNS, least, strict=True)]
    return Rows(table.file, np.stack(keys, axis=1), own.times_ns(column, unit), own.lines, unit)


def _by_context(prefill: Rows) -> Rows:
    """Prefill rows by tokens already cached; the GPU tables count all keys (see docs/latencies.md)."""
    if not (prefill.keys[:, KV] < prefill.keys[:, CHUNK]).any():
        prefill.keys[:, KV] -= prefill.keys[:, CHUNK]
    return prefill


def _check_rows(prefill: Rows, decode: Rows, query: LatencyQuery) -> None:
    chunk, context = prefill.keys[:, CHUNK], prefill.keys[:, KV]
    requests, total_kv = decode.keys[:, BATCH], decode.keys[:, KV]
    pairs = chunk * (context + chunk / 2)
    refuse_impossible_attention(
        prefill, pairs, chunk + context, query, lambda row: f"a chunk of {chunk[row]} on {context[row]}"
    )
    refuse_impossible_attention(
        decode,
        total_kv,
        total_kv,
        query,
        lambda row: f"a decode of {requests[row]} with {total_kv[row]} of KV",
    )
    for rows in (prefill, decode):
        for row, first in repeats(rows.keys):
            ratio = rows.ns[row] / rows.ns[first]
            if not 1 / REPEAT < ratio < REPEAT:
                text = rows.unit.text
                raise rows.error(
                    row,
                    f"takes {text(rows.ns[row])}, but line {int(rows.lines[first])} says that the same "
                    f"takes {text(rows.ns[first])}",
                )
    refuse_cliffs_along(prefill, ("", "chunk", "context"), (CHUNK, KV), NOISY_FALL)
    refuse_cliffs_along(decode, ("", "", "total KV"), (KV,), NOISY_FALL)


def _points(keys: NDArray[np.int64], ns: NDArray[np.float64]) -> Points:
    points: Points = {}
    for (first, second), time in zip(keys.tolist(), ns.tolist(), strict=True):
        points.setdefault(first, {})[second] = time
    return points


def prediction_files(folder: Path) -> tuple[Path, Path]:
    """The filled grids of prefill and decode of a table folder."""
    grids = folder / "predictions"
    return grids / "attn_prefill_predictions.csv", grids / "attn_decode_predictions.csv"


def predictor_file(folder: Path) -> Path:
    """What the grids were made from and how good they are; published grids have none."""
    return folder / "predictions" / "predictor.json"


def read_predictions(folder: Path, query: LatencyQuery) -> tuple[Points, Points]:
    """Points of the filled grids, in ns; the published ones and those of ``build_predictor``."""
    prefill_file, decode_file = prediction_files(folder)
    if not (prefill_file.is_file() and decode_file.is_file()):
        if query.predicted_attention:
            message = f"no predictor here for --enable-attn-prediction; {_how_to_build(query)}"
            raise InputError(prefill_file.parent, "", message)
        raise NoLatencyError(folder, "", "has neither attention.csv nor predictions/ of prefill and decode")
    _refuse_stale(folder, query)
    times = ("prediction", NANOSECONDS)
    prefill = read_key_rows(prefill_file, PREFILL_GRID, times, (0, 1))
    decode = read_key_rows(decode_file, DECODE_GRID, times, (1, 0))
    decode = decode.take(decode.keys[:, 1] >= decode.keys[:, 0])  # others are of an empty kernel
    _check_smallest(prefill, query, "a chunk of {1} on {0}")
    _check_smallest(decode, query, "a decode of {0} with {1} of KV")
    refuse_cliffs_along(prefill, PREFILL_GRID, (0, 1), NOISY_FALL)
    refuse_cliffs_along(decode, DECODE_GRID, (1,), NOISY_FALL)
    return _points(prefill.keys[:, ::-1], prefill.ns), _points(decode.keys, decode.ns)


def _check_smallest(grid: Rows, query: LatencyQuery, what: str) -> None:
    """Find another unit by the smallest batch: published grids are flat for large ones, faster than any device."""
    if not grid.ns.size:
        return
    least = grid.take(np.lexsort(grid.keys.T)[:1])
    work = least.keys.prod(axis=1)
    refuse_impossible_attention(least, work, work, query, lambda _: what.format(*least.keys[0]))


def _how_to_build(query: LatencyQuery) -> str:
    where = f" --profile-dir {query.profile_dir}" if query.profile_dir else ""
    options = f"--hardware {query.hardware} --model {query.model.name} --tp {query.tp_size}{where}"
    return f"make it with llm_profile/build_predictor.sh {options}"


def _refuse_stale(folder: Path, query: LatencyQuery) -> None:
    """A predictor that says what it was made from must have been made from the table beside it."""
    file, table = predictor_file(folder), folder / "attention.csv"
    if not (file.is_file() and table.is_file()):
        return
    if read_json_object(file).get("attention_csv_sha256") != table_digest(table):
        message = f"was not made from the attention.csv that is here now; {_how_to_build(query)}"
        raise InputError(file, "attention_csv_sha256", message)


def table_digest(file: Path) -> str:
    """What tells one ``attention.csv`` from another."""
    return hashlib.sha256(file.read_bytes()).hexdigest()

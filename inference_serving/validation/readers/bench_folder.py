"""Per-request timestamps of the published bench: ``requests.jsonl``, ``meta.json``, ``timeseries.csv``.

A request's arrival is wall-clock time, its other times are those of the engine's clock. The offset between
the two is not recorded; it is taken from the request that was queued soonest after it arrived, so TTFT
counts the wait for the engine's loop but not the shortest way into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError, read_json_object
from inference_serving.validation.readers.base import Fields, Head, Reader, records, stated_blocks
from inference_serving.validation.readers.series_table import read_series
from inference_serving.validation.run import NS_PER_S, LeftOut, Run, ServedRequest

_FLAGS = {
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "dtype": "--dtype",
    "kv_cache_dtype": "--kv-cache-dtype",
}


def _recognises(head: Head) -> bool:
    return {"request_id", "queued_ts", "first_token_ts"} <= head.record.keys()


def _read(file: Path) -> Run:
    lines = [Fields(file, where, record) for where, record in records(file)]
    served = [line for line in lines if line.record.get("last_token_ts") is not None]
    if not served:
        raise InputError(file, "last_token_ts", "no request has finished")
    meta_file, series_file = file.with_name("meta.json"), file.with_name("timeseries.csv")
    meta = read_json_object(meta_file) if meta_file.exists() else {}
    clock_offset = min(line.number("queued_ts") - line.number("arrival_time") for line in served)
    start = _start(meta_file, meta, min(line.number("arrival_time") for line in served))
    failed = len(lines) - len(served)
    settings = meta.get("engine_kwargs") or {}
    if not isinstance(settings, dict):
        raise InputError(meta_file, "engine_kwargs", f"{settings!r}: must be a JSON object")
    return Run(
        file=file,
        format=READER.name,
        requests=tuple(sorted((_request(one, clock_offset, start) for one in served), key=_arrival)),
        series=read_series(series_file) if series_file.exists() else None,
        left_out=(LeftOut(failed, "not finished in the real run"),) if failed else (),
        flags=_flags(settings),
        kv_blocks=stated_blocks({**meta, **settings}),
        notes=("token times between first and last are not recorded: no ITL in the real run",),
    )


def _arrival(request: ServedRequest) -> int:
    return request.arrival_ns


def _start(file: Path, meta: Mapping[str, Any], first_arrival_s: float) -> float:
    """When the run began, in seconds of wall-clock time: as stated, else its first arrival."""
    text = meta.get("started_at")
    if text is None:
        return first_arrival_s
    try:
        start = datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        raise InputError(file, "started_at", f"{text!r}: must be a time in ISO 8601 format") from None
    if start > first_arrival_s:
        raise InputError(file, "started_at", f"{text!r}: is after the first arrival")
    return start


def _request(line: Fields, clock_offset_s: float, start_s: float) -> ServedRequest:
    arrival = line.number("arrival_time")
    arrived = arrival + clock_offset_s
    first, last = line.number("first_token_ts"), line.number("last_token_ts")
    if last < first:
        raise line.error("last_token_ts", f"{last!r}: is before first_token_ts")
    return ServedRequest(
        name=str(line.record.get("request_id")),
        arrival_ns=round((arrival - start_s) * NS_PER_S),
        prompt_tokens=line.count("input_toks", 1),
        output_tokens=line.count("output_toks", 1),
        ttft_ns=line.as_ns("first_token_ts", first - arrived),
        latency_ns=line.as_ns("last_token_ts", last - arrived),
    )


def _flags(settings: Mapping[str, Any]) -> tuple[str, ...]:
    stated = [(flag, settings.get(name)) for name, flag in _FLAGS.items()]
    return tuple(part for flag, value in stated if value is not None for part in (flag, str(value)))


READER = Reader("bench", "requests.jsonl of the published bench, or its folder", _recognises, _read)

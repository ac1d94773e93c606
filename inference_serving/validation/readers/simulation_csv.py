"""The per-request CSV that a simulation writes with ``--output``; times in ns, ITL a JSON list."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.validation.readers.base import Fields, Head, Reader, text_lines
from inference_serving.validation.run import Run, ServedRequest

_COUNTS = ("request id", "input", "output", "arrival", "latency", "TTFT")


def _recognises(head: Head) -> bool:
    return "request id" in head.line and "TTFT" in head.line


def _read(file: Path) -> Run:
    rows = csv.DictReader(line for _, line in text_lines(file))
    missing = [name for name in (*_COUNTS, "ITL") if name not in (rows.fieldnames or [])]
    if missing:
        raise InputError(
            file, "line 1", f"has no column named {missing[0]}; give a CSV written with --output"
        )
    requests = [_request(file, rows.line_num, row) for row in rows]
    if not requests:
        raise InputError(file, "", "has no finished requests")
    return Run(
        file=file,
        format=READER.name,
        requests=tuple(sorted(requests, key=lambda request: (request.arrival_ns, int(request.name)))),
    )


def _request(file: Path, number: int, row: dict[str, str]) -> ServedRequest:
    where = f"line {number}"
    counts: dict[str, object] = {}
    try:
        for name in _COUNTS:
            counts[name] = row[name]
            counts[name] = int(row[name])
        gaps = np.array(json.loads(row["ITL"]), dtype=np.int64)
    except (TypeError, ValueError):
        gaps = np.empty(0, dtype=np.int64)
    fields = Fields(file, where, counts)
    prompt, total = fields.count("input", 1), fields.count("output", 1)
    if gaps.shape != (total - prompt - 1,):
        raise fields.error(
            "ITL", f"must be a list of the {total - prompt - 1} gaps between the tokens, in ns"
        )
    return ServedRequest(
        name=str(fields.count("request id")),
        arrival_ns=fields.count("arrival"),
        prompt_tokens=prompt,
        output_tokens=total - prompt,
        ttft_ns=fields.count("TTFT"),
        latency_ns=fields.count("latency"),
        itl_ns=gaps,
    )


READER = Reader("simulation", "CSV written with --output", _recognises, _read)

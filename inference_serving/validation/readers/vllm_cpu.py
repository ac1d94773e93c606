"""A recorded vLLM run, ``NAME.reqs.jsonl[.gz]``: settings in line 1, then a request a line, times in s.

``arr`` is when a request was due, ``late`` how much later it was sent (both are its arrival here), ``ts``
the time of each token since the start of the run, ``e2e`` from sending to the last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.validation.readers.base import Fields, Head, Reader, records, stated_blocks
from inference_serving.validation.run import Run, ServedRequest

_RECORDED_MAX_NUM_SEQS = 32


def _recognises(head: Head) -> bool:
    meta = head.record.get("meta")
    return isinstance(meta, dict) and "mnbt" in meta


def _read(file: Path) -> Run:
    (_, first), *rest = records(file)
    settings: Mapping[str, Any] = first["meta"]
    by_length = settings.get("policy") == "priority"
    requests = [_request(Fields(file, where, record), by_length) for where, record in rest]
    if not requests:
        raise InputError(file, "", "has no requests after its first line")
    return Run(
        file=file,
        format=READER.name,
        requests=tuple(sorted(requests, key=lambda request: request.arrival_ns)),
        flags=_flags(settings),
        kv_blocks=stated_blocks(settings),
        notes=("under the priority policy the recorded priority of a request was its prompt length",)
        if by_length
        else (),
    )


def _request(line: Fields, by_length: bool) -> ServedRequest:
    arrival_ns = line.seconds_as_ns("arr") + line.seconds_as_ns("late")
    output_tokens = line.count("o", 1)
    times = line.array("ts")
    if len(times) != output_tokens:
        raise line.error("ts", f"has {len(times)} token times, but o is {output_tokens}")
    times_ns = np.array([line.as_ns("ts", time) for time in times], dtype=np.int64)
    prompt_tokens = line.count("p", 1)
    return ServedRequest(
        name=str(line.count("i")),
        arrival_ns=arrival_ns,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        ttft_ns=line.seconds_as_ns("ttft"),
        latency_ns=line.seconds_as_ns("e2e"),
        itl_ns=np.diff(times_ns),
        priority=prompt_tokens if by_length else 0,
    )


def _flags(settings: Mapping[str, Any]) -> tuple[str, ...]:
    more = (("--policy-args", "policy_args"), ("--block-size", "block_size"))
    stated = ((flag, str(settings[name])) for flag, name in more if settings.get(name))
    return (
        "--max-num-batched-tokens",
        str(settings["mnbt"]),
        "--max-num-seqs",
        str(_RECORDED_MAX_NUM_SEQS),
        "--scheduling-policy",
        str(settings.get("policy", "fcfs")),
        "--long-prefill-token-threshold",
        str(settings.get("lpt", 0)),
        *(part for pair in stated for part in pair),
    )


READER = Reader("vllm-recording", "NAME.reqs.jsonl[.gz] of a recorded vLLM run", _recognises, _read)

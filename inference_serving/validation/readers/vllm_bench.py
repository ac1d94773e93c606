"""The result file of ``vllm bench serve --save-result --save-detailed``, under its public field names.

``ttfts`` (s), ``itls`` (s, a list a request, a gap a streamed chunk), ``input_lens``, ``output_lens``, and,
from newer versions, ``start_times`` (s of some clock) and ``errors``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError, read_json_object
from inference_serving.validation.readers.base import Fields, Head, Reader, stated_blocks
from inference_serving.validation.run import LeftOut, Run, ServedRequest


def _recognises(head: Head) -> bool:
    return "num_prompts" in head.record and ("ttfts" in head.record or "mean_ttft_ms" in head.record)


def _read(file: Path) -> Run:
    facts = Fields(file, "", read_json_object(file))
    if "ttfts" not in facts.record:
        raise facts.error("ttfts", "no times of single requests; run vllm bench serve with --save-detailed")
    prompts = facts.array("input_lens")
    count = len(prompts)
    outputs, ttfts = facts.array("output_lens", count), facts.array("ttfts", count)
    itls = facts.array("itls", count)
    starts = _starts(facts, count)
    errors = facts.array("errors", count) if facts.record.get("errors") else [""] * count
    requests, failed = [], 0
    for number in range(count):
        if errors[number] or not outputs[number]:
            failed += 1
            continue
        row = {
            "input_lens": prompts[number],
            "output_lens": outputs[number],
            "ttfts": ttfts[number],
            "itls": itls[number],
            "start_times": starts[number] if starts else 0,
        }
        requests.append(_request(number, Fields(file, f"entry {number}", row)))
    if not requests:
        raise InputError(file, "output_lens", "no request has finished")
    if starts:
        requests.sort(key=lambda request: request.arrival_ns)
    return Run(
        file=file,
        format=READER.name,
        requests=tuple(requests),
        left_out=(LeftOut(failed, "failed in the real run"),) if failed else (),
        arrivals_known=starts is not None,
        kv_blocks=stated_blocks(facts.record),
        notes=_notes(requests, starts is not None),
    )


def _starts(facts: Fields, count: int) -> list[float] | None:
    """When each request was sent, in seconds since the first was; None if that is not recorded."""
    if not facts.record.get("start_times"):
        return None
    starts = facts.array("start_times", count)
    numbers = [Fields(facts.file, "", {"start_times": start}).number("start_times") for start in starts]
    first = min(numbers)
    return [number - first for number in numbers]


def _request(number: int, row: Fields) -> ServedRequest:
    gaps = np.array([row.as_ns("itls", gap) for gap in row.array("itls")], dtype=np.int64)
    ttft_ns = row.seconds_as_ns("ttfts")
    return ServedRequest(
        name=str(number),
        arrival_ns=row.seconds_as_ns("start_times"),
        prompt_tokens=row.count("input_lens", 1),
        output_tokens=row.count("output_lens", 1),
        ttft_ns=ttft_ns,
        latency_ns=ttft_ns + int(gaps.sum()),
        itl_ns=gaps,
    )


def _notes(requests: list[ServedRequest], arrivals: bool) -> tuple[str, ...]:
    notes = ["times are those of the client: the way over HTTP is in them"]
    bundled = sum(one.itl_ns is not None and one.itl_ns.size != one.output_tokens - 1 for one in requests)
    if bundled:
        notes.append(f"{bundled} request(s) got several tokens in a chunk: ITL is per chunk there")
    if not arrivals:
        notes.append("no start_times: arrivals are unknown, so there is no throughput and no series")
    return tuple(notes)


READER = Reader("vllm-bench", "vllm bench serve --save-result --save-detailed", _recognises, _read)

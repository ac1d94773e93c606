"""Runs of vLLM: whatever ``python -m inference_serving.validate`` reads that has the lengths of its requests.

That is the result of ``vllm bench serve --save-result --save-detailed``, ``requests.jsonl`` of the published
bench, and recorded runs. vLLM's inputs (ShareGPT, custom prompts) hold text, not token counts.
"""

from __future__ import annotations

from pathlib import Path

from astra_sim.input_error import InputError
from dataset.convert.base import Trace, TraceFormat
from dataset.workload import WorkloadRequest
from inference_serving.validation.readers import read_run
from inference_serving.validation.readers.base import head_of

_TEXTS = ("prompt", "conversations", "messages")


def _read(file: Path) -> Trace:
    if not file.is_dir():
        _refuse_text(file)
    run = read_run(file)
    if not run.requests:
        raise InputError(run.file, "", "is a throughput series, which has no requests")
    first_ns = min(request.arrival_ns for request in run.requests)
    requests = [
        WorkloadRequest(
            one.arrival_ns - first_ns if run.arrivals_known else 0, one.prompt_tokens, one.output_tokens
        )
        for one in run.requests
    ]
    return Trace(
        sorted(requests, key=lambda request: request.arrival_ns),
        {one.why: one.count for one in run.left_out},
        run.arrivals_known,
    )


def _refuse_text(file: Path) -> None:
    head = head_of(file)
    field = next((name for name in _TEXTS if name in head.record), None)
    if field is None and head.line.startswith("["):
        field = "line 1"
    if field is not None:
        raise InputError(
            file,
            field,
            "prompts as text, which has no lengths without a tokenizer; give the result of a benchmark that "
            "used this file (vllm bench serve --save-result --save-detailed)",
        )


FORMAT = TraceFormat(
    "vllm",
    "runs of vLLM: JSON of vllm bench serve --save-result --save-detailed, requests.jsonl of the published "
    "bench or its folder, NAME.reqs.jsonl[.gz]",
    _read,
)

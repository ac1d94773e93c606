"""Runs made by hand, in the formats that the tool reads; times are chosen so that results are round."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference_serving.validation.run import Run, ServedRequest

MS = 1_000_000
SIMULATION_COLUMNS = "request id,input,output,arrival,latency,TTFT,ITL"


def served(
    name: str,
    arrival_ms: float,
    lengths: tuple[int, int],
    ttft_ms: float,
    gaps_ms: Sequence[float] | None = None,
    latency_ms: float | None = None,
) -> ServedRequest:
    """A request; its latency follows from its gaps if it has any."""
    gaps = None if gaps_ms is None else np.array([round(gap * MS) for gap in gaps_ms], dtype=np.int64)
    latency_ns = round((latency_ms or 0) * MS) if gaps is None else round(ttft_ms * MS) + int(gaps.sum())
    return ServedRequest(name, round(arrival_ms * MS), *lengths, round(ttft_ms * MS), latency_ns, itl_ns=gaps)


def run_of(*requests: ServedRequest, file: str = "real.jsonl", **facts: Any) -> Run:
    return Run(Path(file), "test", tuple(requests), **facts)


def write_lines(file: Path, *records: dict[str, Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    return file


def bench_request(
    number: int, arrival: float, lengths: tuple[int, int], *engine_times: float
) -> dict[str, Any]:
    """A line of the published bench; engine times are queued, first token, last token."""
    queued, first, last = engine_times
    return {
        "request_id": f"bench-{number}",
        "input_toks": lengths[0],
        "output_toks": lengths[1],
        "arrival_time": arrival,
        "queued_ts": queued,
        "scheduled_ts": queued,
        "first_token_ts": first,
        "last_token_ts": last,
    }


def write_bench(folder: Path) -> Path:
    """Two requests of 10 + 3 and 600 + 2 tokens; the engine's clock is 900 s behind, and 0.5 s in a queue."""
    write_lines(
        folder / "requests.jsonl",
        bench_request(0, 1000.25, (10, 3), 100.25, 100.75, 101.25),
        bench_request(1, 1001.0, (600, 2), 101.5, 102.0, 102.25),
    )
    settings = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "dtype": "bfloat16", "seed": 42}
    meta = {"started_at": "1970-01-01T00:16:40Z", "engine_kwargs": settings}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "timeseries.csv").write_text(
        "t,prompt_throughput,gen_throughput,running\n1.0,10.0,1.0,1\n2.0,0.0,3.0,1\n3.0,600.0,1.0,0\n"
    )
    return folder


def vllm_result(**changes: Any) -> dict[str, Any]:
    """A result of ``vllm bench serve``: two requests that were served, and one that failed."""
    return {
        "date": "20260101-000000",
        "num_prompts": 3,
        "completed": 2,
        "input_lens": [10, 20, 30],
        "output_lens": [3, 0, 1],
        "ttfts": [0.25, 0.0, 0.5],
        "itls": [[0.125, 0.0625], [], []],
        "start_times": [7000.5, 7000.0, 7001.0],
        "errors": ["", "timeout", ""],
        **changes,
    }


def write_recording(file: Path, policy: str = "fcfs", **more: object) -> Path:
    """A recorded run of two requests; ``more`` goes to its settings."""
    return write_lines(
        file,
        {"meta": {"mnbt": 512, "policy": policy, "lpt": 0, **more}, "base": 1.0},
        {"i": 0, "p": 5, "o": 2, "arr": 0.5, "late": 0.25, "ttft": 0.25, "e2e": 0.5, "ts": [1.0, 1.25]},
        {"i": 1, "p": 700, "o": 1, "arr": 0.75, "late": 0.0, "ttft": 1.0, "e2e": 1.0, "ts": [1.75]},
    )


def write_simulation(file: Path, *requests: ServedRequest) -> Path:
    """The columns of ``--output`` that matter."""
    lines = [SIMULATION_COLUMNS]
    for one in requests:
        gaps = json.dumps([] if one.itl_ns is None else one.itl_ns.tolist())
        facts = (one.name, one.prompt_tokens, one.prompt_tokens + one.output_tokens, one.arrival_ns)
        lines.append(",".join(map(str, (*facts, one.latency_ns, one.ttft_ns, f'"{gaps}"'))))
    file.write_text("\n".join(lines) + "\n")
    return file

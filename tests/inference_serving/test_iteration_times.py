"""Iteration times from a throughput series: known ones come out again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inference_serving.iteration_times import iteration_times, line_of, main
from inference_serving.request_spec import RequestSpec
from inference_serving.validation.run import Series

CONSTANT_MS, KV_TOKEN_US = 20.0, 0.6
WORKLOAD = [
    RequestSpec(number, number * 50_000_000, 100 + 37 * number % 400, 300 + 83 * number % 900)
    for number in range(120)
]


def served(limit: int = 10**6) -> Series:
    """Tokens of each second of an engine whose iterations take a constant and so much a token of KV."""
    now_ms, made, tokens = 0.0, np.zeros(len(WORKLOAD), dtype=int), np.zeros(600)
    arrivals = np.array([one.arrival_ns / 1e6 for one in WORKLOAD])
    outputs, prompts = (
        np.array([getattr(one, f"{name}_tokens") for one in WORKLOAD]) for name in ("output", "input")
    )
    while (made < outputs).any():
        running = np.flatnonzero((arrivals <= now_ms) & (made < outputs))[:limit]
        kv = int((prompts + made)[running].sum())
        now_ms += CONSTANT_MS + kv * KV_TOKEN_US / 1e3
        made[running] += 1
        tokens[int(now_ms / 1e3)] += len(running)
    return Series(1.0, np.trim_zeros(tokens, "b"))


def test_the_line_through_the_tail_is_that_of_the_engine():
    found = line_of(iteration_times(served(), WORKLOAD))
    assert found is not None
    assert found.constant_ms == pytest.approx(CONSTANT_MS, rel=0.03)
    assert found.kv_token_us == pytest.approx(KV_TOKEN_US, rel=0.03)


def test_requests_beyond_the_limit_wait_for_the_earlier_ones():
    line = line_of(iteration_times(served(limit=40), WORKLOAD, max_num_seqs=40))
    assert line is not None
    assert line.kv_token_us == pytest.approx(KV_TOKEN_US, rel=0.05)


def test_one_request_makes_one_token_an_iteration():
    (alone,) = iteration_times(Series(2.0, np.array([25.0])), [RequestSpec(0, 0, 100, 80)])
    assert (alone.requests, alone.iteration_ms, alone.prompt_tokens) == (
        pytest.approx(1),
        pytest.approx(40),
        100,
    )
    assert alone.kv_tokens == pytest.approx(100 + 50 / 2)
    assert line_of([alone]) is None


def test_the_command_prints_intervals_and_the_line(tmp_path: Path, capsys):
    dataset, series = tmp_path / "load.jsonl", tmp_path / "series.tsv"
    facts = [(one.input_tokens, one.output_tokens, one.arrival_ns) for one in WORKLOAD]
    names = ("input_toks", "output_toks", "arrival_time_ns")
    dataset.write_text("".join(json.dumps(dict(zip(names, one, strict=True))) + "\n" for one in facts))
    rows = [f"{second}\t{rate}\n" for second, rate in enumerate([0.0, *served().generated.tolist()])]
    series.write_text("time_s\tthroughput\n" + "".join(rows))
    assert main([str(series), "--dataset", str(dataset)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("without prompts, ")
    series.write_text("time_s\tthroughput\n" + "".join(rows[:9]))
    assert main([str(series), "--dataset", str(dataset)]) == 2
    assert "but the workload generates" in capsys.readouterr().err
    assert main([str(series), "--dataset", str(dataset), "--max-num-seqs", "0"]) == 2
    assert capsys.readouterr().err == "error: --max-num-seqs: 0: must be at least 1\n"

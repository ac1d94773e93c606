"""Every format of runs: the numbers that come out, how it is told from the others, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from validation_runs import (
    MS,
    SIMULATION_COLUMNS,
    bench_request,
    run_of,
    served,
    vllm_result,
    write_bench,
    write_lines,
    write_recording,
    write_simulation,
)

from astra_sim.input_error import InputError
from inference_serving.validation.readers import read_run
from inference_serving.validation.run import LeftOut, Run, span_ns


def times(run: Run) -> list[tuple]:
    """What a reader makes of each request, in ms."""
    return [
        (one.name, one.arrival_ns / MS, *one.lengths, one.ttft_ns / MS, one.latency_ns / MS)
        for one in run.requests
    ]


def gaps(run: Run) -> list[list[float] | None]:
    return [None if one.itl_ns is None else (one.itl_ns / MS).tolist() for one in run.requests]


@pytest.mark.parametrize("inside", ["", "requests.jsonl"], ids=["folder", "file"])
def test_the_published_bench_counts_the_way_through_the_queue(tmp_path, inside):
    run = read_run(write_bench(tmp_path) / inside)
    assert run.format == "bench"
    assert times(run) == [("bench-0", 250, 10, 3, 500, 1000), ("bench-1", 1000, 600, 2, 1000, 1250)]
    assert gaps(run) == [None, None]
    assert [one.tpot_ns for one in run.requests] == [250 * MS, 250 * MS]
    assert run.flags == ("--max-num-seqs", "128", "--max-num-batched-tokens", "2048", "--dtype", "bfloat16")


def test_the_published_bench_brings_its_series(tmp_path):
    series = read_run(write_bench(tmp_path)).series
    assert series.step_s == 1
    assert series.generated.tolist() == [1, 3, 1]
    assert series.prompt.tolist() == [10, 0, 600]


def test_a_bench_without_other_files_starts_with_its_first_arrival(tmp_path):
    write_bench(tmp_path)
    (tmp_path / "meta.json").unlink()
    (tmp_path / "timeseries.csv").unlink()
    run = read_run(tmp_path)
    assert [one.arrival_ns for one in run.requests] == [0, 750 * MS]
    assert (run.series, run.flags, run.kv_blocks) == (None, (), None)


def test_requests_that_did_not_finish_are_left_out(tmp_path):
    unfinished = {**bench_request(2, 1002.0, (1, 1), 102.5, 0, 0), "last_token_ts": None}
    write_lines(
        tmp_path / "requests.jsonl", bench_request(0, 1000.0, (10, 3), 100.0, 100.5, 101.5), unfinished
    )
    run = read_run(tmp_path)
    assert len(run.requests) == 1
    assert run.left_out == (LeftOut(1, "not finished in the real run"),)


@pytest.mark.parametrize(
    ("meta", "blocks"),
    [
        ({}, None),
        ({"num_gpu_blocks": 27000}, 27000),
        ({"engine_kwargs": {"num_gpu_blocks_override": 512}}, 512),
        ({"engine_kwargs": {"num_gpu_blocks_override": None}}, None),
    ],
)
def test_kv_blocks_are_known_if_they_are_stated(tmp_path, meta, blocks):
    write_bench(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert read_run(tmp_path).kv_blocks == blocks


def test_a_vllm_benchmark_result_has_arrivals_and_gaps(tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(vllm_result()))
    run = read_run(file)
    assert run.format == "vllm-bench"
    assert times(run) == [("0", 500, 10, 3, 250, 437.5), ("2", 1000, 30, 1, 500, 500)]
    assert gaps(run) == [[125, 62.5], []]
    assert run.left_out == (LeftOut(1, "failed in the real run"),)
    assert run.arrivals_known
    assert [one.tpot_ns for one in run.requests] == [93.75 * MS, None]


def test_an_indented_vllm_result_is_told_by_its_content_too(tmp_path):
    file = tmp_path / "some.name"
    file.write_text(json.dumps(vllm_result(num_gpu_blocks="1234"), indent=4))
    run = read_run(file)
    assert (run.format, run.kv_blocks) == ("vllm-bench", 1234)


def test_an_older_vllm_result_has_no_arrivals(tmp_path):
    file = tmp_path / "result.json"
    facts = vllm_result()
    del facts["start_times"], facts["errors"]
    file.write_text(json.dumps(facts))
    run = read_run(file)
    assert not run.arrivals_known
    assert [one.name for one in run.requests] == ["0", "2"]
    assert "no start_times" in run.notes[-1]


def test_tokens_that_came_in_chunks_are_noted(tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(vllm_result(output_lens=[9, 0, 1])))
    assert "1 request(s) got several tokens in a chunk: ITL is per chunk there" in read_run(file).notes


@pytest.mark.parametrize("name", ["a.reqs.jsonl.gz", "a.reqs.jsonl"])
def test_a_recorded_run_starts_when_a_request_was_really_sent(tmp_path, name):
    run = read_run(write_recording(tmp_path / name))
    assert run.format == "vllm-recording"
    assert times(run) == [("0", 750, 5, 2, 250, 500), ("1", 750, 700, 1, 1000, 1000)]
    assert gaps(run) == [[250], []]
    assert run.flags == (
        *("--max-num-batched-tokens", "512", "--max-num-seqs", "32"),
        *("--scheduling-policy", "fcfs", "--long-prefill-token-threshold", "0"),
    )
    assert [one.priority for one in run.requests] == [0, 0]


def test_a_recorded_prefill_policy_comes_with_its_options_and_block_size(tmp_path):
    options = {"policy": "srpt", "policy_args": "chunk=512", "block_size": 128, "num_gpu_blocks": 99}
    run = read_run(write_recording(tmp_path / "a.jsonl", **options))
    assert run.flags[-4:] == ("--policy-args", "chunk=512", "--block-size", "128")
    assert run.kv_blocks == 99


def test_recorded_priorities_are_prompt_lengths(tmp_path):
    run = read_run(write_recording(tmp_path / "a.jsonl", policy="priority"))
    assert [one.priority for one in run.requests] == [5, 700]


@pytest.mark.parametrize(
    ("text", "step", "values"),
    [
        ("time_s\tthroughput\n0\t0\n1\t5.5\n2\t7\n", 1, [5.5, 7]),
        ("t,gen_throughput\n1,5\n2,7\n", 1, [5, 7]),
        ("time,throughput\n1.5,5\n2.0,7\n", 0.5, [0, 0, 5, 7]),
    ],
)
def test_a_row_of_a_series_is_the_interval_that_ends_there(tmp_path, text, step, values):
    file = tmp_path / "series"
    file.write_text(text)
    run = read_run(file)
    assert (run.format, run.requests) == ("series", ())
    assert run.series.step_s == step
    assert run.series.generated.tolist() == values
    assert run.series.prompt is None


def test_a_simulation_can_stand_in_for_a_real_run(tmp_path):
    requests = served("1", 5, (10, 1), 3, []), served("0", 0, (20, 3), 7, [1, 2])
    run = read_run(write_simulation(tmp_path / "run.csv", *requests))
    assert run.format == "simulation"
    assert times(run) == [("0", 0, 20, 3, 7, 10), ("1", 5, 10, 1, 3, 3)]
    assert gaps(run) == [[1, 2], []]


def test_a_run_lasts_from_its_first_arrival_to_its_last_token():
    run = run_of(served("0", 10, (1, 3), 5, [4, 1]), served("1", 11, (1, 1), 3, []))
    assert span_ns(run.requests) == 10 * MS
    assert span_ns(()) == 0


def bench_line(**changes):
    return json.dumps({**bench_request(0, 1.0, (10, 3), 1.0, 2.0, 3.0), **changes})


RECORDED = {"i": 0, "p": 5, "o": 2, "arr": 0.5, "late": 0, "ttft": 0.25, "e2e": 0.5, "ts": [1.0, 1.25]}


def recording(**changes):
    return json.dumps({"meta": {"mnbt": 512}}) + "\n" + json.dumps({**RECORDED, **changes})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (bench_line() + "\n{", "line 2: must be a JSON object"),
        (bench_line(input_toks=0), "line 1: input_toks: 0: must be an integer of at least 1"),
        (bench_line(output_toks=1.5), "line 1: output_toks: 1.5: must be an integer of at least 1"),
        (bench_line(arrival_time="now"), "line 1: arrival_time: 'now': must be a number"),
        (bench_line(last_token_ts=1.5), "line 1: last_token_ts: 1.5: is before first_token_ts"),
        (bench_line(last_token_ts=None), "last_token_ts: no request has finished"),
        (
            bench_line(first_token_ts=0.5),
            "line 1: first_token_ts: -0.5: must be between 0 and 4e+09 seconds",
        ),
        (
            json.dumps({"num_prompts": 3, "mean_ttft_ms": 1.0}),
            "ttfts: no times of single requests; run vllm bench serve with --save-detailed",
        ),
        (json.dumps(vllm_result(itls=[[]])), "itls: has 1 entries, but there are 3 requests"),
        (json.dumps(vllm_result(itls=None)), "itls: this field is required"),
        (json.dumps(vllm_result(itls=3)), "itls: 3: must be a list"),
        (
            json.dumps(vllm_result(itls=[[-1], [], []])),
            "entry 0: itls: -1: must be between 0 and 4e+09 seconds",
        ),
        (
            json.dumps(vllm_result(itls=[["a"], [], []])),
            "entry 0: itls: 'a': must be a number of seconds",
        ),
        (json.dumps(vllm_result(start_times=[1, 2, "x"])), "start_times: 'x': must be a number"),
        (json.dumps(vllm_result(start_times=[1])), "start_times: has 1 entries, but there are 3 requests"),
        (json.dumps(vllm_result(output_lens=[0, 0, 0])), "output_lens: no request has finished"),
        (recording(ts=[1.0]), "line 2: ts: has 1 token times, but o is 2"),
        (recording(late=-1), "line 2: late: -1.0: must be between 0 and 4e+09 seconds"),
        (json.dumps({"meta": {"mnbt": 512}}), "has no requests after its first line"),
        ("t,throughput\n1,2\n", "must have at least two rows below its header"),
        ("t,throughput\n1,2\n2,x\n", "line 3: throughput: 'x': must be a number"),
        ("t,throughput\n1,2\n2,3,4\n", "line 3: has 3 columns, but the header has 2"),
        ("t,throughput\n1,2\n2,3\n9,4\n", "t: must rise from 0 or more in equal steps"),
        ("request id,TTFT\n", "line 1: has no column named input; give a CSV written with --output"),
        (SIMULATION_COLUMNS + "\n", "has no finished requests"),
        (
            SIMULATION_COLUMNS + "\n0,10,12,0,5,3,[]\n",
            "line 2: ITL: must be a list of the 1 gaps between the tokens, in ns",
        ),
        (SIMULATION_COLUMNS + "\n0,ten,12,0,5,3,[]\n", "line 2: input: 'ten': must be a number"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(tmp_path, text, complaint):
    file = tmp_path / "run"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_run(file)
    assert str(caught.value) == f"{file}: {complaint}"


@pytest.mark.parametrize("text", ["", "hello\n", "[1]\n", "{}\n", "a,b\n1,2\n"])
def test_what_is_no_run_is_refused_with_the_formats_there_are(tmp_path, text):
    file = tmp_path / "run"
    file.write_text(text)
    with pytest.raises(InputError, match="is not a run in any known format") as caught:
        read_run(file)
    for name in ("bench", "vllm-bench", "vllm-recording", "series", "simulation"):
        assert f"{name}: " in caught.value.message


def test_missing_and_unreadable_files_are_errors(tmp_path):
    for name, content, complaint in (
        ("nowhere", None, "no such file"),
        ("binary", b"\xff\xfe", "not a UTF-8 text file"),
        ("broken.gz", b"no gzip", "cannot be read: "),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=complaint):
            read_run(tmp_path / name)


@pytest.mark.parametrize(
    ("meta", "complaint"),
    [
        ({"engine_kwargs": 3}, "engine_kwargs: 3: must be a JSON object"),
        ({"started_at": "yesterday"}, "started_at: 'yesterday': must be a time in ISO 8601 format"),
        (
            {"started_at": "2026-01-01T00:00:00Z"},
            "started_at: '2026-01-01T00:00:00Z': is after the first arrival",
        ),
    ],
)
def test_a_broken_meta_file_is_named(tmp_path, meta, complaint):
    write_bench(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'meta.json'}: {complaint}"


def test_samples_are_whole_nanoseconds(tmp_path):
    run = read_run(write_recording(tmp_path / "a.jsonl"))
    assert run.requests[0].itl_ns.dtype == np.int64

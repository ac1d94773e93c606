"""Results out: the published CSV, the printed summary, and JSON that agrees with the CSV."""

from __future__ import annotations

import csv
import io
import json
import statistics
from math import floor

import pytest
from clusters import KV_BYTES_PER_TOKEN, LinearLatency, instance, make_cluster, requests, simulate

from inference_serving.output import RunResult, collect, summary_json, summary_text
from inference_serving.request_csv import csv_text
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation

HEADER = (
    "instance id,request id,model,input,output,arrival,end_time,latency,queuing_delay,TTFT,TPOT,ITL,"
    "prefill_instance_id,decode_instance_id,preemptions,priority,"
    "class,isolated_prefill,slowdown,chunks,pauses,overtaken,bound,prefix_hit_tokens,wait_ledger,energy_j,"
    "session_id,turn,client_wait"
)
MIXED = [(30, 5), (200, 1), (7, 12), (64, 2), (1, 1), (120, 30)]
KINDS = [
    [(1, None)],
    [(2, None), (1, None)],
    [(1, "prefill"), (2, "decode")],
    [(1, "prefill"), (1, "prefill"), (1, "decode"), (1, None)],
]


def run(folder, *kinds, lengths=MIXED, gap_ns=30_000, **extra) -> RunResult:
    sections = [instance(folder, *kind, **extra) for kind in kinds or [(1, None)]]
    cluster = make_cluster(folder, sections)
    return collect(cluster, simulate(cluster, requests(*lengths, gap_ns=gap_ns)))


def rows_of(result: RunResult) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(result))))


def facts_of(result: RunResult) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(summary_json(result.summary), parse_constant=refuse)


def summary_labels(text: str) -> list[str]:
    """Titles without their frame, and the names of the lines."""
    return [line.strip("= ") if line.startswith("=") else line.split(":")[0] for line in text.splitlines()]


def value_of(text: str, name: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(f"{name}:")]
    return [line.removeprefix(f"{name}:").strip() for line in lines]


def test_the_published_columns_come_first_and_ours_after_them(tmp_path):
    assert csv_text(run(tmp_path)).splitlines()[0] == HEADER


def iteration_ns(tokens: int, attention: int) -> int:
    """One iteration of the two-block test model for one sequence on one NPU, of less than 64 tokens."""
    return 24 * (1000 + 10 * tokens) + 2 * (500 + attention) + 1010


def test_a_row_by_hand(tmp_path):
    row = rows_of(run(tmp_path, lengths=[(1, 1), (10, 3)], gap_ns=1_000_000))[1]
    ttft = iteration_ns(10, 100)
    gaps = [iteration_ns(1, 11), iteration_ns(1, 12)]
    assert row == {
        "instance id": "0",
        "request id": "1",
        "model": "tiny",
        "input": "10",
        "output": "13",
        "arrival": "1000000",
        "end_time": str(1_000_000 + ttft + sum(gaps)),
        "latency": str(ttft + sum(gaps)),
        "queuing_delay": "0",
        "TTFT": str(ttft),
        "TPOT": str(sum(gaps) // 2),
        "ITL": str(gaps),
        "prefill_instance_id": "0",
        "decode_instance_id": "0",
        "preemptions": "0",
        "priority": "0",
        "class": "short",
        "isolated_prefill": str(ttft),
        "slowdown": "1.000000",
        "chunks": "",
        "pauses": "",
        "overtaken": "",
        "bound": "",
        "prefix_hit_tokens": "0",
        "wait_ledger": "",
        "energy_j": "",
        "session_id": "",
        "turn": "",
        "client_wait": "",
    }


def test_gaps_are_a_quoted_list_of_whole_numbers(tmp_path):
    line = csv_text(run(tmp_path, lengths=[(10, 3)])).splitlines()[1]
    assert f',"[{iteration_ns(1, 11)}, {iteration_ns(1, 12)}]",' in line


def test_one_output_token_has_an_empty_list_and_no_tpot(tmp_path):
    (row,) = rows_of(run(tmp_path, lengths=[(10, 1)]))
    assert (row["ITL"], row["TPOT"], row["output"]) == ("[]", "0", "11")
    assert row["TTFT"] == row["latency"] == str(iteration_ns(10, 100))


def test_rows_are_in_order_of_request_id_whoever_finishes_first(tmp_path):
    rows = rows_of(run(tmp_path, lengths=[(10, 50), (10, 2), (10, 9)]))
    assert [row["request id"] for row in rows] == ["0", "1", "2"]
    assert int(rows[0]["end_time"]) > int(rows[2]["end_time"]) > int(rows[1]["end_time"])


def test_a_request_that_moves_names_both_instances_and_finishes_at_the_second(tmp_path):
    kinds = [(1, "prefill"), (1, "prefill"), (1, "decode")]
    rows = rows_of(run(tmp_path, *kinds, lengths=[(10, 2), (10, 3)]))
    columns = ("instance id", "prefill_instance_id", "decode_instance_id")
    assert [[row[name] for name in columns] for row in rows] == [["2", "0", "2"], ["2", "1", "2"]]


def test_a_request_that_does_not_move_names_one_instance(tmp_path):
    kinds = [(1, "prefill"), (1, "decode"), (1, None)]
    rows = rows_of(run(tmp_path, *kinds, lengths=[(10, 1), (10, 3)]))  # round robin: prefill, colocated
    columns = ("instance id", "prefill_instance_id", "decode_instance_id")
    assert [[row[name] for name in columns] for row in rows] == [["0", "0", "0"], ["2", "2", "2"]]


def test_preemptions_are_told_by_request(tmp_path):
    """Two prompts of 4 blocks fit into 10, their 31 tokens of output do not."""
    result = run(tmp_path, lengths=[(64, 31), (64, 31)], gap_ns=0, kv_tokens=10 * 16 + 8)
    assert [row["preemptions"] for row in rows_of(result)] == ["0", "1"]


def test_priorities_are_those_of_the_workload(tmp_path):
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    workload = [
        RequestSpec(request_id=number, arrival_ns=0, input_tokens=10, output_tokens=2, priority=priority)
        for number, priority in enumerate([5, -3, 0])
    ]
    rows = rows_of(collect(cluster, simulate(cluster, workload)))
    assert [row["priority"] for row in rows] == ["5", "-3", "0"]


def test_the_summary_has_the_published_blocks(tmp_path):
    latencies = [
        f"{kind} {name} (ms)" for name in ("TTFT", "TPOT", "ITL") for kind in ("Mean", "Median", "P99")
    ]
    of_instance = [
        "Model",
        "Hardware",
        "Latencies from",
        "Compute time estimated (%)",
        "Requests",
        "Iterations",
        "Preemptions",
        "Peak KV blocks",
        *latencies,
    ]
    text = summary_text(run(tmp_path, (1, "prefill"), (1, "decode"), (1, None)).summary)
    assert summary_labels(text) == [
        "Throughput Results",
        "Finished requests",
        "Total simulated time (s)",
        "Total clocks (ns)",
        "Mean latency (ms)",
        "Total input tokens",
        "Total generated tokens",
        "Request throughput (req/s)",
        "Prompt throughput (tok/s)",
        "Generation throughput (tok/s)",
        "Instance 0 (prefill)",
        *of_instance,
        "Instance 1 (decode)",
        *of_instance,
        "Instance 2 (colocated)",
        *of_instance,
        "",
    ]


def test_the_summary_is_a_column_of_names_and_one_of_values(tmp_path):
    assert {len(line) for line in summary_text(run(tmp_path).summary).splitlines()} == {58}


def percentile(values: list[int], share: float) -> float:
    """Linear between the two nearest ranks."""
    ordered, rank = sorted(values), share * (len(values) - 1)
    low = floor(rank)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def in_ms(values: list[int]) -> dict[str, float]:
    if not values:
        return {"mean": 0, "median": 0, "p99": 0}
    facts = (statistics.fmean(values), statistics.median(values), percentile(values, 0.99))
    return dict(zip(("mean", "median", "p99"), (pytest.approx(ns / 1e6) for ns in facts), strict=True))


def latencies_from(rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """What the JSON must say of the requests of these CSV rows."""
    several = [row for row in rows if int(row["output"]) - int(row["input"]) > 1]
    return {
        "ttft": in_ms([int(row["TTFT"]) for row in rows]),
        "tpot": in_ms([int(row["TPOT"]) for row in several]),
        "itl": in_ms([gap for row in several for gap in json.loads(row["ITL"])]),
        "latency": in_ms([int(row["latency"]) for row in rows]),
    }


@pytest.mark.parametrize("kinds", KINDS)
def test_the_latencies_of_the_json_are_those_of_the_csv(tmp_path, kinds):
    result = run(tmp_path, *kinds)
    assert facts_of(result)["latency_ms"] == latencies_from(rows_of(result))


@pytest.mark.parametrize("kinds", KINDS)
def test_each_instance_tells_of_the_requests_that_it_served_a_phase_of(tmp_path, kinds):
    result = run(tmp_path, *kinds)
    for instance_facts in facts_of(result)["instances"]:
        me = str(instance_facts["instance_id"])
        rows = [r for r in rows_of(result) if me in (r["prefill_instance_id"], r["decode_instance_id"])]
        assert instance_facts["requests"] == len(rows)
        assert instance_facts["latency_ms"] == latencies_from(rows)


@pytest.mark.parametrize("kinds", KINDS)
def test_the_totals_of_the_json_are_those_of_the_csv(tmp_path, kinds):
    result = run(tmp_path, *kinds)
    rows, facts = rows_of(result), facts_of(result)
    end_ns = max(int(row["end_time"]) for row in rows)
    prompt = sum(int(row["input"]) for row in rows)
    generated = sum(int(row["output"]) for row in rows) - prompt
    assert facts["requests"] == {"given": 6, "finished": len(rows)}
    assert facts["makespan_ns"] == end_ns
    assert facts["tokens"] == {"prompt": prompt, "generated": generated}
    assert facts["throughput_per_s"] == {
        "requests": pytest.approx(6e9 / end_ns),
        "prompt_tokens": pytest.approx(prompt * 1e9 / end_ns),
        "generated_tokens": pytest.approx(generated * 1e9 / end_ns),
    }


def test_the_printed_summary_says_what_the_json_says(tmp_path):
    result = run(tmp_path, (1, None), (2, None))
    text, facts = summary_text(result.summary), facts_of(result)
    assert value_of(text, "Finished requests") == ["6 of 6"]
    assert value_of(text, "Total clocks (ns)") == [str(facts["makespan_ns"])]
    assert value_of(text, "Mean latency (ms)") == [f"{facts['latency_ms']['latency']['mean']:.2f}"]
    for name in ("ttft", "tpot", "itl"):
        printed = value_of(text, f"P99 {name.upper()} (ms)")
        assert printed == [f"{one['latency_ms'][name]['p99']:.2f}" for one in facts["instances"]]


def test_the_json_describes_each_instance(tmp_path):
    result = run(tmp_path, (2, "prefill"), (1, "decode"), lengths=[(33, 4)], kv_tokens=10 * 16 + 8)
    prefill, decode = facts_of(result)["instances"]
    named = ("role", "model", "hardware", "npus", "latency_source", "iterations", "preemptions")
    assert [prefill[name] for name in named] == ["prefill", "tiny", "H100", 2, "test", 1, 0]
    assert [decode[name] for name in named] == ["decode", "tiny", "H100", 1, "test", 3, 0]
    assert decode["kv_blocks"] == {"capacity": 10, "peak": 3, "peak_paused": 0}


def test_the_json_counts_the_bytes_between_npus(tmp_path):
    """One all-reduce of S bytes over two ranks puts 2 S on the network; there are four in an iteration."""
    result = run(tmp_path, (2, "prefill"), (1, "decode"), lengths=[(50, 2)])
    reduced = 4 * 2 * 50 * 64 * 2
    assert facts_of(result)["network_bytes"] == {"p2p": 50 * KV_BYTES_PER_TOKEN, "collective": reduced}


@pytest.fixture
def nothing(tmp_path) -> RunResult:
    """A run that was stopped before it began."""
    cluster = make_cluster(tmp_path, [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")])
    latencies = {spec.instance_id: LinearLatency() for spec in cluster.instances}
    simulation = Simulation(cluster, requests(*MIXED), SimulationConfig(), latencies)
    simulation.stop()
    simulation.run()
    return collect(cluster, simulation)


def test_an_empty_result_is_a_csv_of_its_header(nothing):
    assert csv_text(nothing) == HEADER + "\n"


def test_an_empty_result_is_json_with_zeros(nothing):
    facts = facts_of(nothing)
    zeros = {"mean": 0, "median": 0, "p99": 0}
    assert (facts["interrupted"], facts["requests"]) == (True, {"given": 6, "finished": 0})
    assert facts["throughput_per_s"] == {"requests": 0, "prompt_tokens": 0, "generated_tokens": 0}
    assert facts["latency_ms"] == dict.fromkeys(("ttft", "tpot", "itl", "latency"), zeros)


def test_an_empty_result_is_a_summary_of_zeros(nothing):
    text = summary_text(nothing.summary)
    assert value_of(text, "Finished requests") == ["0 of 6"]
    assert value_of(text, "P99 ITL (ms)") == ["0.00", "0.00"]


def test_a_finished_run_was_not_interrupted(tmp_path):
    assert facts_of(run(tmp_path))["interrupted"] is False

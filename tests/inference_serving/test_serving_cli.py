"""The command as a whole: what a run writes and prints, its exit codes, and how it ends when it is interrupted."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import TINY_MODEL, cluster_file, instance

from inference_serving import cli
from inference_serving.progress import IntervalLog
from inference_serving.request_csv import OWN_COLUMNS
from inference_serving.simulation import Simulation, SimulationStallError

MAIN = Path(__file__).parents[2] / "main.py"
PUBLISHED_COLUMNS = (
    "instance id,request id,model,input,output,arrival,end_time,latency,queuing_delay,TTFT,TPOT,ITL"
)
LENGTHS = [(100, 5), (20, 1), (300, 30), (7, 12)]
GAP_NS = 300_000
ENDLESS = 10**9


def write_workload(folder: Path, lengths: list[tuple[int, int]], gap_ns: int = GAP_NS) -> Path:
    file = folder / "workload.jsonl"
    lines = [
        {"input_toks": prompt, "output_toks": output, "arrival_time_ns": number * gap_ns}
        for number, (prompt, output) in enumerate(lengths)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def arguments(folder: Path, *flags: object, instances: list[dict[str, Any]] | None = None) -> list[str]:
    """The command line of a small run; its outputs go below ``folder``."""
    if not (folder / "workload.jsonl").exists():
        write_workload(folder, LENGTHS)
    cluster = cluster_file(folder, instances or [instance(folder)])
    files = ["--cluster-config", cluster, "--dataset", folder / "workload.jsonl"]
    outputs = ["--output", folder / "run.csv", "--summary-json", folder / "run.json"]
    return [str(part) for part in (*files, *outputs, *flags)]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "run.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def as_program(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MAIN), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_the_published_columns_come_first_and_only_known_ones_follow(tmp_path):
    assert cli.main(arguments(tmp_path)) == 0
    header = (tmp_path / "run.csv").read_text().splitlines()[0]
    assert header == ",".join([PUBLISHED_COLUMNS, *OWN_COLUMNS])


def test_every_request_has_a_row_with_its_own_numbers(tmp_path):
    cli.main(arguments(tmp_path))
    facts = [(row["request id"], row["input"], row["output"], row["arrival"]) for row in rows(tmp_path)]
    expected = [(n, prompt, prompt + output, n * GAP_NS) for n, (prompt, output) in enumerate(LENGTHS)]
    assert facts == [tuple(map(str, one)) for one in expected]


def test_the_times_of_a_row_agree_with_each_other(tmp_path):
    cli.main(arguments(tmp_path))
    for row in rows(tmp_path):
        arrival, end, latency, ttft = (int(row[name]) for name in ("arrival", "end_time", "latency", "TTFT"))
        gaps = json.loads(row["ITL"])
        assert latency == end - arrival == ttft + sum(gaps)
        assert len(gaps) == int(row["output"]) - int(row["input"]) - 1
        assert int(row["TPOT"]) == (sum(gaps) // len(gaps) if gaps else 0)


def test_the_json_summary_says_what_the_csv_says(tmp_path):
    cli.main(arguments(tmp_path))
    served, facts = rows(tmp_path), summary(tmp_path)
    makespan_ns = max(int(row["end_time"]) for row in served)
    prompt, generated = (sum(column) for column in zip(*LENGTHS, strict=True))
    assert {name: facts[name] for name in ("cluster_config", "interrupted", "requests", "makespan_ns")} == {
        "cluster_config": str(tmp_path / "cluster.json"),
        "interrupted": False,
        "requests": {"given": 4, "finished": 4},
        "makespan_ns": makespan_ns,
    }
    assert facts["tokens"] == {"prompt": prompt, "generated": generated}
    assert facts["throughput_per_s"] == {
        "requests": 4 * 1e9 / makespan_ns,
        "prompt_tokens": prompt * 1e9 / makespan_ns,
        "generated_tokens": generated * 1e9 / makespan_ns,
    }
    assert facts["network_bytes"] == {"p2p": 0, "collective": 0}


def test_the_json_latencies_are_those_of_the_csv_in_ms(tmp_path):
    cli.main(arguments(tmp_path))
    served, latencies = rows(tmp_path), summary(tmp_path)["latency_ms"]
    several = [row for row in served if int(row["output"]) > int(row["input"]) + 1]
    samples = {
        "ttft": [int(row["TTFT"]) for row in served],
        "tpot": [int(row["TPOT"]) for row in several],
        "itl": [gap for row in several for gap in json.loads(row["ITL"])],
        "latency": [int(row["latency"]) for row in served],
    }
    assert latencies == {
        name: {
            "mean": pytest.approx(np.mean(ns) / 1e6),
            "median": pytest.approx(np.median(ns) / 1e6),
            "p99": pytest.approx(np.percentile(ns, 99) / 1e6),
        }
        for name, ns in samples.items()
    }


def test_the_json_summary_describes_every_instance(tmp_path):
    """The request with one output token ends where its prompt ran; the other three move on."""
    pair = [instance(tmp_path, 2, "prefill"), instance(tmp_path, 1, "decode")]
    cli.main(arguments(tmp_path, instances=pair))
    shown = ("instance_id", "role", "model", "hardware", "npus", "latency_source", "preemptions", "requests")
    prefill, decode = summary(tmp_path)["instances"]
    assert [prefill[name] for name in shown] == [
        0,
        "prefill",
        "tiny",
        "H100",
        2,
        "calibrated:H100:packed",
        0,
        4,
    ]
    assert [decode[name] for name in shown] == [
        1,
        "decode",
        "tiny",
        "H100",
        1,
        "calibrated:H100:packed",
        0,
        3,
    ]


@pytest.mark.parametrize(("num_req", "served"), [(1, 1), (3, 3), (4, 4), (1000, 4)])
def test_the_first_requests_are_taken_or_all_there_are(tmp_path, num_req, served):
    assert cli.main(arguments(tmp_path, "--num-req", num_req)) == 0
    assert [row["request id"] for row in rows(tmp_path)] == [str(number) for number in range(served)]


def test_missing_output_folders_are_made(tmp_path):
    file = tmp_path / "a" / "b" / "run.csv"
    assert cli.main(arguments(tmp_path, "--output", file)) == 0
    assert file.read_text().startswith(PUBLISHED_COLUMNS)


def test_nothing_is_written_but_what_was_asked_for(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    argv = arguments(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert cli.main(argv) == 0
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "run.csv", tmp_path / "run.json"}


def test_the_iterations_that_were_asked_for_are_dumped_and_no_others(tmp_path):
    folder = tmp_path / "traces"
    cli.main(arguments(tmp_path, "--dump-traces", folder, "--dump-iterations", "0,2-3"))
    assert sorted(path.name for path in (folder / "instance_0").iterdir()) == [
        "iteration_0",
        "iteration_2",
        "iteration_3",
    ]


def test_dumping_traces_does_not_change_the_results(tmp_path):
    cli.main(arguments(tmp_path))
    plain = (tmp_path / "run.csv").read_bytes()
    cli.main(arguments(tmp_path, "--dump-traces", tmp_path / "traces"))
    assert (tmp_path / "run.csv").read_bytes() == plain


def test_one_seed_gives_the_same_bytes_whatever_the_hash_seed_is(tmp_path):
    argv = arguments(tmp_path, "--request-routing-policy", "RAND", instances=[instance(tmp_path)] * 3)
    results = []
    for hash_seed in ("1", "2"):
        done = as_program(argv, PYTHONHASHSEED=hash_seed)
        files = [(tmp_path / name).read_bytes() for name in ("run.csv", "run.json")]
        results.append((done.returncode, done.stdout, done.stderr, files))
    assert results[0] == results[1]
    assert results[0][0] == 0


def test_another_seed_routes_at_random_in_another_way(tmp_path):
    write_workload(tmp_path, [(10, 2)] * 30)
    routed = []
    for seed in (0, 1):
        flags = ("--request-routing-policy", "RAND", "--seed", seed)
        cli.main(arguments(tmp_path, *flags, instances=[instance(tmp_path)] * 3))
        routed.append([row["instance id"] for row in rows(tmp_path)])
    assert routed[0] != routed[1]


def test_through_pipes_only_interval_lines_and_the_summary_are_seen(tmp_path):
    done = as_program(arguments(tmp_path, "--log-interval", "0.001"))
    lines = done.stdout.splitlines()
    start = lines.index("=================== Throughput Results ===================")
    interval = re.compile(
        r"\[\d+\.\d{3}s\] prompt throughput: \d+\.\d tok/s, generation throughput: \d+\.\d tok/s, "
        r"running: \d+ reqs, waiting: \d+ reqs, KV cache: \d+\.\d %"
    )
    assert done.stderr == ""
    assert start > 1
    assert [line for line in lines[:start] if not interval.fullmatch(line)] == []
    assert [line for line in lines[start:] if not re.fullmatch(r"=.*=|[A-Z][^=]+: +\S.*", line)] == []


def test_a_stalled_simulation_ends_with_its_report_and_exit_code_3(tmp_path, monkeypatch, capsys):
    def stall(simulation: Simulation) -> None:
        raise SimulationStallError("1 of 4 requests can never finish; at 5 ns")

    monkeypatch.setattr(Simulation, "run", stall)
    assert cli.main(arguments(tmp_path)) == 3
    captured = capsys.readouterr()
    where = tmp_path / "run.csv"
    assert captured.err == (
        f"interrupted: 0 of 4 requests had finished; {where} holds them\n"
        "error: the simulation cannot go on: 1 of 4 requests can never finish; at 5 ns\n"
    )
    assert len(where.read_text().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "a polite kill"])
def test_an_interrupted_program_writes_the_requests_that_have_finished(tmp_path, number):
    """The last request would take hours; the first interval line comes long after the others have finished."""
    (tmp_path / "tiny.json").write_text(json.dumps({**TINY_MODEL, "max_position_embeddings": 2 * ENDLESS}))
    write_workload(tmp_path, [(10, 3), (10, 7), (10, 5), (10, ENDLESS)])
    argv = arguments(tmp_path, instances=[instance(tmp_path, kv_tokens=2 * ENDLESS)])
    before = set(tmp_path.iterdir())
    program = subprocess.Popen(
        [sys.executable, "-u", str(MAIN), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(300, program.kill)
    watchdog.start()
    try:
        assert "running: 1 reqs, waiting: 0 reqs" in program.stdout.readline()
        program.send_signal(number)
        stdout, stderr = program.communicate()
    finally:
        watchdog.cancel()
        program.kill()
    assert program.returncode == 130
    assert stderr == f"interrupted: 3 of 4 requests had finished; {tmp_path / 'run.csv'} holds them\n"
    assert re.search(r"^Finished requests: +3 of 4$", stdout, re.MULTILINE)
    assert [(row["request id"], row["output"]) for row in rows(tmp_path)] == [
        ("0", "13"),
        ("1", "17"),
        ("2", "15"),
    ]
    facts = summary(tmp_path)
    assert (facts["interrupted"], facts["requests"]) == (True, {"given": 4, "finished": 3})
    assert set(tmp_path.iterdir()) - before == {tmp_path / "run.csv", tmp_path / "run.json"}


@pytest.fixture
def interrupt_at(monkeypatch):
    """Make the command get signals while it reports iterations: ``{iteration: how many signals}``."""

    def interrupt(signals: dict[int, int]) -> None:
        class Interrupting(IntervalLog):
            iterations = 0

            def on_iteration(self, *facts: Any) -> None:
                super().on_iteration(*facts)
                self.iterations += 1
                for _ in range(signals.get(self.iterations, 0)):
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(cli, "IntervalLog", Interrupting)

    return interrupt


@pytest.mark.parametrize(("iteration", "finished"), [(1, []), (2, ["0"]), (3, ["0"]), (4, ["0", "1"])])
def test_an_interrupted_run_ends_after_the_iteration_it_is_at(
    tmp_path, capsys, interrupt_at, iteration, finished
):
    write_workload(tmp_path, [(10, 2), (10, 4), (10, 90)], gap_ns=0)
    interrupt_at({iteration: 1})
    assert cli.main(arguments(tmp_path)) == 130
    assert [row["request id"] for row in rows(tmp_path)] == finished
    assert summary(tmp_path)["instances"][0]["iterations"] == iteration
    assert capsys.readouterr().err == (
        f"interrupted: {len(finished)} of 3 requests had finished; {tmp_path / 'run.csv'} holds them\n"
    )


def test_an_interrupted_run_without_output_names_no_file(tmp_path, capsys, interrupt_at):
    write_workload(tmp_path, [(10, 2), (10, 90)], gap_ns=0)
    interrupt_at({5: 1})
    files = arguments(tmp_path)[:4]
    assert cli.main(files) == 130
    assert capsys.readouterr().err == "interrupted: 1 of 2 requests had finished\n"


def test_an_interrupt_when_all_has_finished_changes_nothing(tmp_path, capsys, interrupt_at):
    write_workload(tmp_path, [(10, 2), (10, 4)], gap_ns=0)
    interrupt_at({4: 1})
    assert cli.main(arguments(tmp_path)) == 0
    assert capsys.readouterr().err == ""
    assert summary(tmp_path)["interrupted"] is False


def test_a_second_ctrl_c_kills_at_once_and_leaves_no_files(tmp_path, capsys, interrupt_at):
    interrupt_at({3: 2})
    assert cli.main(arguments(tmp_path)) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"
    assert not list(tmp_path.glob("*run*"))


@pytest.mark.parametrize("signals", [{}, {2: 1}, {2: 2}], ids=["a whole run", "one Ctrl-C", "two"])
def test_signals_mean_the_same_after_a_run_as_before(tmp_path, interrupt_at, signals):
    interrupt_at(signals)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    cli.main(arguments(tmp_path))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_before_the_simulation_ends_without_a_traceback(tmp_path):
    """The workload is a pipe that nobody writes to; that the program has opened it shows where it is."""
    argv = arguments(tmp_path)
    (tmp_path / "workload.jsonl").unlink()
    os.mkfifo(tmp_path / "workload.jsonl")
    # tests in the background of a shell are told to ignore Ctrl-C, and the program would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    program = subprocess.Popen([sys.executable, str(MAIN), *argv], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        with (tmp_path / "workload.jsonl").open("w"):
            time.sleep(0.3)  # by now it reads; a signal between two system calls would be seen too late
            program.send_signal(signal.SIGINT)
            _, stderr = program.communicate(timeout=60)
    finally:
        program.kill()
    assert (program.returncode, stderr) == (130, "interrupted: nothing was written\n")


def test_when_nobody_reads_stdout_any_more_the_program_ends_quietly(tmp_path):
    write_workload(tmp_path, [(10, 3000)])
    program = subprocess.Popen(
        [sys.executable, str(MAIN), *arguments(tmp_path, "--log-interval", "0.001")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    program.stdout.readline()
    program.stdout.close()
    assert (program.stderr.read(), program.wait(timeout=60)) == ("", 141)

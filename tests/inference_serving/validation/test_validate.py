"""``python -m inference_serving.validate``: what it prints, writes, simulates and refuses."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from validation_runs import (
    MS,
    served,
    vllm_result,
    write_bench,
    write_lines,
    write_recording,
    write_simulation,
)

import inference_serving.validation
from inference_serving.validate import main
from inference_serving.validation.comparison import compare_runs
from inference_serving.validation.readers import read_run, read_simulation
from inference_serving.validation.report import print_report

CLUSTER = str(Path(__file__).parents[3] / "cluster_config" / "single_node_single_instance.json")
SERIES = "time_s\tthroughput\n0\t0\n1\t2\n2\t2\n"


def simulated_bench(folder: Path) -> Path:
    """A simulation of the bench made by :func:`write_bench`, wrong in round numbers."""
    return write_simulation(
        folder / "sim.csv",
        served("0", 250, (10, 3), 600, [200, 250]),
        served("1", 1000, (600, 2), 750, [250]),
    )


@pytest.fixture
def bench(tmp_path) -> list[str]:
    return [str(write_bench(tmp_path)), "--csv", str(simulated_bench(tmp_path))]


def test_the_report_in_a_pipe(bench, tmp_path, capsys):
    assert main([*bench, "--classes", "512"]) == 0
    expected = f"""\
real: {tmp_path}/requests.jsonl (bench)
simulated: {tmp_path}/sim.csv
matched by id: 2 requests
note: token times between first and last are not recorded: no ITL in the real run

all requests (2)
ms               mean   median      p90      p95      p99  a request
TTFT real      750.00   750.00   950.00   975.00   995.00
  simulated    675.00   675.00   735.00   742.50   748.50
  error       -10.0 %  -10.0 %  -22.6 %  -23.8 %  -24.8 %     22.5 %
TPOT real      250.00   250.00   250.00   250.00   250.00
  simulated    237.50   237.50   247.50   248.75   249.75
  error        -5.0 %   -5.0 %   -1.0 %   -0.5 %   -0.1 %      5.0 %
latency real  1125.00  1125.00  1225.00  1237.50  1247.50
  simulated   1025.00  1025.00  1045.00  1047.50  1049.50
  error        -8.9 %   -8.9 %  -14.7 %  -15.4 %  -15.9 %     12.5 %
"""
    out = capsys.readouterr().out
    assert out.startswith(expected)
    assert "prompts of 1-512 tokens (1)\n" in out
    assert "prompts over 512 tokens (1)\n" in out
    assert "\nduration (s)                     2.00       1.75  -12.5 %\n" in out
    assert "\ngenerated tokens a second, in intervals of 1 s\n" in out
    assert "\nprompt tokens a second, in intervals of 1 s\n" in out
    assert "\nerror of the mean, by load\n" in out


def test_on_a_terminal_the_report_is_a_table(bench):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    comparison = compare_runs(read_run(Path(bench[0])), read_simulation(Path(bench[2])))
    print_report(comparison, screen)
    assert "┃" in screen.getvalue()
    assert "TTFT real" in screen.getvalue()


def test_the_json_has_the_same_numbers(bench, tmp_path):
    (tmp_path / "run.json").write_text('{"instances": [{"latency_source": "calibrated:H100"}]}')
    out = tmp_path / "new" / "out.json"
    assert main([*bench, "--json", str(out), "--summary-json", str(tmp_path / "run.json")]) == 0
    facts = json.loads(out.read_text())
    assert facts["real"] == {"file": str(tmp_path / "requests.jsonl"), "format": "bench"}
    assert facts["simulated"] == {
        "file": str(tmp_path / "sim.csv"),
        "latency_sources": ["calibrated:H100"],
    }
    assert facts["matching"] == {"how": "by id", "requests": 2, "left_out": []}
    (group,) = facts["groups"]
    assert group["latency_ms"]["TTFT"]["mean"] == {"real": 750, "simulated": 675, "error_percent": -10}
    assert group["latency_ms"]["TTFT"]["samples"] == {"real": 2, "simulated": 2}
    assert group["latency_ms"]["TTFT"]["median_absolute_error_of_requests_percent"] == pytest.approx(22.5)
    assert "ITL" not in group["latency_ms"]
    generated, prompt = facts["series"]
    assert (generated["counts"], generated["real"], generated["simulated"]) == (
        "generated",
        [1, 3, 1],
        [1, 4, 0],
    )
    assert generated["tokens"] == {"real": 5, "simulated": 5, "error_percent": 0}
    assert generated["mean_absolute_error_percent"] == pytest.approx(100 * (2 / 3) / (5 / 3))
    assert (prompt["counts"], prompt["simulated"]) == ("prompt", [10, 600, 0])


def test_requests_that_were_left_out_are_counted(tmp_path, capsys):
    (tmp_path / "result.json").write_text(json.dumps(vllm_result()))
    simulation = write_simulation(
        tmp_path / "sim.csv",
        served("0", 0, (10, 3), 250, [125, 62.5]),
        served("1", 1, (20, 5), 1, [1, 1, 1, 1]),
        served("2", 500, (30, 1), 500, []),
    )
    assert main([str(tmp_path / "result.json"), "--csv", str(simulation)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:5] == [
        "matched by id: 2 requests",
        "left out: 1 requests, failed in the real run",
        "left out: 1 requests, not in the real run",
    ]


@pytest.mark.parametrize(
    ("flags", "counts", "tokens"),
    [([], "generated", 4), (["--series-counts", "all"], "prompt and generated", 34)],
)
def test_a_series_is_compared_with_the_tokens_it_counts(tmp_path, capsys, flags, counts, tokens):
    (tmp_path / "real.tsv").write_text(SERIES)
    simulation = write_simulation(
        tmp_path / "sim.csv",
        served("0", 0, (10, 3), 500, [250, 1000]),
        served("1", 0, (20, 1), 1100, []),
    )
    out = tmp_path / "out.json"
    assert main([str(tmp_path / "real.tsv"), "--csv", str(simulation), "--json", str(out), *flags]) == 0
    facts = json.loads(out.read_text())
    (series,) = facts["series"]
    assert (series["counts"], series["tokens"]["simulated"]) == (counts, tokens)
    assert (facts["matching"], facts["groups"], facts["throughput"]) == (None, [], {})
    assert f"{counts} tokens a second, in intervals of 1 s" in capsys.readouterr().out


def test_one_command_simulates_and_compares(tmp_path, capsys):
    run = write_recording(tmp_path / "a.reqs.jsonl.gz")
    kept = [tmp_path / "kept" / "run.csv", tmp_path / "kept" / "run.json"]
    argv = [str(run), "--simulate", "--cluster-config", CLUSTER, "--max-num-seqs", "8"]
    before = set(tmp_path.rglob("*"))
    assert main([*argv, "--csv", str(kept[0]), "--summary-json", str(kept[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "simulated with: --max-num-batched-tokens 512 --max-num-seqs 32 --scheduling-policy fcfs "
        f"--long-prefill-token-threshold 0 --cluster-config {CLUSTER} --max-num-seqs 8",
        f"real: {run} (vllm-recording)",
        f"simulated: {kept[0]}",
        "latencies from: calibrated:A6000:packed",
        "matched by id: 2 requests",
    ]
    requests = read_simulation(kept[0]).requests
    assert [(one.arrival_ns, *one.lengths) for one in requests] == [(750 * MS, 5, 2), (750 * MS, 700, 1)]
    assert set(tmp_path.rglob("*")) - before == {kept[0].parent, *kept}


def test_priorities_of_the_real_run_are_simulated(tmp_path):
    """All arrive at once; with the shortest first, the short prompt that came last overtakes."""
    lines = [
        {"i": n, "p": p, "o": 1, "arr": 0.0, "late": 0.0, "ttft": 1.0, "e2e": 1.0, "ts": [1.0]}
        for n, p in enumerate((2000, 1000, 5))
    ]
    meta = {"meta": {"mnbt": 512, "policy": "priority"}}
    run, kept = write_lines(tmp_path / "a.reqs.jsonl", meta, *lines), tmp_path / "sim.csv"
    assert main([str(run), "--simulate", "--cluster-config", CLUSTER, "--csv", str(kept)]) == 0
    ttft = [one.ttft_ns for one in read_simulation(kept).requests]
    assert ttft[2] < ttft[1] < ttft[0]


def test_the_workload_of_a_series_is_given_with_dataset(tmp_path, capsys):
    (tmp_path / "real.tsv").write_text(SERIES)
    workload = write_lines(
        tmp_path / "w.jsonl", {"input_toks": 5, "output_toks": 4, "arrival_time_ns": 500 * MS}
    )
    argv = [str(tmp_path / "real.tsv"), "--simulate", "--cluster-config", CLUSTER, "--dataset", str(workload)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "simulated: simulated.csv (not kept; --csv FILE keeps it)\n" in out
    assert re.search(r"^tokens +4\.00 +4\.00 +\+0\.0 %$", out, re.MULTILINE)


def test_the_kv_blocks_of_the_real_run_can_be_taken(tmp_path):
    write_bench(tmp_path)
    (tmp_path / "meta.json").write_text('{"num_gpu_blocks": 77}')
    kept = tmp_path / "kept.json"
    argv = [str(tmp_path), "--simulate", "--cluster-config", CLUSTER, "--summary-json", str(kept)]
    assert main([*argv, "--match-kv-blocks"]) == 0
    assert json.loads(kept.read_text())["instances"][0]["kv_blocks"]["capacity"] == 77


def test_plots_are_written_where_matplotlib_is(bench, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "plots"
    assert main([*bench, "--plots", str(folder)]) == 0
    names = [
        "cdf_ttft.png",
        "cdf_tpot.png",
        "cdf_latency.png",
        "throughput_generated.png",
        "throughput_prompt.png",
    ]
    assert sorted(folder.iterdir()) == sorted(folder / name for name in names)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert capsys.readouterr().out.splitlines()[-5:] == [f"wrote {folder / name}" for name in names]


def test_without_matplotlib_plots_are_refused_before_any_work(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*bench, "--plots", str(tmp_path / "plots")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {tmp_path}/plots: --plots: matplotlib is not installed; run ./compile.sh --with report, or "
        "leave --plots out\n"
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("", "--csv: give the simulation's CSV, or --simulate to make one"),
        ("--csv x.csv --max-num-seqs 8", "--max-num-seqs: is unknown; flags of main.py need --simulate"),
        ("--csv x.csv --match-kv-blocks", "--match-kv-blocks: needs --simulate"),
        ("--simulate --output x.csv", "--output: give --csv FILE to keep the simulation's CSV"),
        ("--simulate --output=x.csv", "--output: give --csv FILE to keep the simulation's CSV"),
        (
            "--simulate --match-kv-blocks",
            "{run}: num_gpu_blocks: the run does not state its KV blocks; take the number from vLLM's log and give "
            "--num-gpu-blocks-override N",
        ),
        ("--csv {folder}/nowhere.csv", "{folder}/nowhere.csv: no such file"),
        ("--csv x.csv --json {folder}", "{folder}: --json: is a folder; give a file name"),
        ("--simulate --csv {folder}", "{folder}: --csv: is a folder; give a file name"),
        (
            "--csv {folder}/sim.csv --summary-json {folder}/meta.json",
            "{folder}/meta.json: instances: not a summary written with --summary-json",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(bench, tmp_path, capsys, flags, complaint):
    folder = {"folder": tmp_path, "run": tmp_path / "requests.jsonl"}
    assert main([bench[0], *flags.format(**folder).split()]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {complaint.format(**folder)}\n")


def test_when_nobody_reads_stdout_any_more_the_command_ends_quietly(bench):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "inference_serving.validate", *bench]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_run_comes_before_the_simulators_flags(bench, capsys):
    assert main(["--simulate", "--cluster-config", CLUSTER, bench[0]]) == 2
    assert capsys.readouterr().err == ("error: RUN: give the real run first, before the flags of main.py\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (SERIES, "{file}: is a throughput series, which has no workload; give it with --dataset FILE"),
        (
            json.dumps(vllm_result(start_times=None)),
            "{file}: start_times: arrival times are unknown; give the workload with --dataset FILE, or record with "
            "a newer vLLM",
        ),
    ],
    ids=["series", "no arrivals"],
)
def test_a_run_without_workload_cannot_be_simulated(tmp_path, capsys, content, complaint):
    file = tmp_path / "run"
    file.write_text(content)
    assert main([str(file), "--simulate"]) == 2
    assert capsys.readouterr().err == f"error: {complaint.format(file=file)}\n"


def test_an_error_of_the_simulator_is_passed_on(bench, capsys):
    assert main([bench[0], "--simulate", "--block-size", "0"]) == 2
    assert capsys.readouterr().err == "error: --block-size: 0: must be at least 1\n"


@pytest.mark.parametrize("limits", ["512,512", "abc", "", "-5", "0"])
def test_classes_are_rising_lengths(bench, capsys, limits):
    with pytest.raises(SystemExit) as stop:
        main([*bench, "--classes", limits])
    assert stop.value.code == 2
    assert "give rising prompt lengths, such as 512" in capsys.readouterr().err


def test_validation_reads_files_and_knows_nothing_of_the_simulators_objects():
    """Only its own modules, files, errors, and the command line, which takes and leaves files."""
    allowed = ("inference_serving.validation", "inference_serving.files", "inference_serving.cli")
    for file in Path(inference_serving.validation.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inference_serving"):
                assert node.module.startswith(allowed), f"{file.name} imports {node.module}"

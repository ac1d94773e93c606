"""Specification of dataset/generate.py: what each distribution draws, and that a seed fixes every byte."""

from __future__ import annotations

import importlib.util
import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from inference_serving.dataset import read_dataset

DATASET = Path(__file__).resolve().parents[2] / "dataset"


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dataset_generate", DATASET / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
README_COMMANDS = [
    shlex.split(line)[2:]
    for line in (DATASET / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("python dataset/generate.py --output dataset/")
]
SHAREGPT = "--lengths sharegpt --arrivals poisson:10"


@pytest.fixture
def make(tmp_path):
    def run(options: str, requests: int = 10_000, name: str = "out.jsonl") -> Path:
        file: Path = tmp_path / name
        assert generate.main(["--output", str(file), "--requests", str(requests), *shlex.split(options)]) == 0
        return file

    return run


def lengths(file: Path) -> tuple[np.ndarray, np.ndarray]:
    requests = read_dataset(file)
    return np.array([r.input_tokens for r in requests]), np.array([r.output_tokens for r in requests])


def arrivals_ns(file: Path) -> np.ndarray:
    return np.array([r.arrival_ns for r in read_dataset(file)])


# The committed files


@pytest.mark.parametrize("command", README_COMMANDS, ids=lambda command: Path(command[1]).stem)
def test_the_readme_commands_make_the_committed_files(tmp_path, command):
    assert command[0] == "--output"
    again = tmp_path / "again.jsonl"
    assert generate.main(["--output", str(again), *command[2:]]) == 0
    assert again.read_bytes() == (DATASET.parent / command[1]).read_bytes()


def test_every_committed_workload_has_its_command_and_is_small():
    """Other generators have tests of their own."""
    others = {"agentic_sessions", "conversations", "sharegpt_pulse_req50_n6_delay15_pc"}
    files = {f"dataset/{file.name}" for file in DATASET.glob("*.jsonl") if file.stem not in others}
    assert {command[1] for command in README_COMMANDS} == files
    assert all((DATASET.parent / file).stat().st_size < 100_000 for file in files)


# Seeds


def test_one_seed_makes_the_same_bytes_and_another_seed_others(make):
    first = make(f"{SHAREGPT} --seed 7 --token-ids random", 50, "a").read_bytes()
    assert make(f"{SHAREGPT} --seed 7 --token-ids random", 50, "b").read_bytes() == first
    assert make(f"{SHAREGPT} --seed 8 --token-ids random", 50, "c").read_bytes() != first


def test_lengths_arrivals_and_token_ids_have_a_random_stream_each(make):
    base = make(SHAREGPT, 50, "base")
    other_lengths = make("--input-toks uniform:1:9 --output-toks 5 --arrivals poisson:10", 50, "lengths")
    other_arrivals = make("--lengths sharegpt --arrivals gamma:3:2", 50, "arrivals")
    with_ids = make(f"{SHAREGPT} --token-ids random", 50, "ids")
    assert (arrivals_ns(other_lengths) == arrivals_ns(base)).all()
    assert (np.array(lengths(other_arrivals)) == np.array(lengths(base))).all()
    assert read_dataset(with_ids) == read_dataset(base)


# Lengths


def test_fixed_lengths(make):
    inputs, outputs = lengths(make("--input-toks 1024 --output-toks 128 --arrivals poisson:60"))
    assert set(inputs) == {1024}
    assert set(outputs) == {128}


def test_uniform_lengths_include_both_ends_and_hit_each_equally_often(make):
    inputs, _ = lengths(make("--input-toks uniform:3:6 --output-toks 1 --arrivals constant:1"))
    values, counts = np.unique(inputs, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert counts == pytest.approx([2_500] * 4, rel=0.1)


def test_lognormal_lengths_have_the_median_and_spread_asked_for_within_the_limits(make):
    inputs, outputs = lengths(
        make("--input-toks lognormal:500:0.8 --output-toks lognormal:100:1:50:200 --arrivals constant:1")
    )
    assert np.median(inputs) == pytest.approx(500, rel=0.05)
    assert np.log(inputs).std() == pytest.approx(0.8, rel=0.05)
    assert np.median(outputs) == pytest.approx(100, rel=0.05)
    assert (outputs.min(), outputs.max()) == (50, 200)


@pytest.mark.parametrize(
    ("percentile", "input_tokens", "output_tokens"),
    [(10, 7, 51), (25, 13, 133), (50, 40, 245), (75, 255, 360), (90, 784, 508), (99, 1411, 766)],
)
def test_sharegpt_lengths_match_the_measured_quantiles(make, percentile, input_tokens, output_tokens):
    inputs, outputs = lengths(make(SHAREGPT))
    assert np.percentile(inputs, percentile) == pytest.approx(input_tokens, rel=0.1)
    assert np.percentile(outputs, percentile) == pytest.approx(output_tokens, rel=0.05)


def test_sharegpt_lengths_match_the_measured_means_and_are_uncorrelated(make):
    inputs, outputs = lengths(make(SHAREGPT))
    assert inputs.mean() == pytest.approx(221, rel=0.05)
    assert outputs.mean() == pytest.approx(267, rel=0.05)
    assert abs(np.corrcoef(inputs, outputs)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "input_toks,output_toks\n10,1\n20,2\n"),
        ("azure.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,10,1\n2023-11-16,20,2\n"),
        ("pairs.jsonl", '{"input_toks": 10, "output_toks": 1}\n\n{"input_toks": 20, "output_toks": 2}\n'),
    ],
)
def test_pairs_of_a_file_stay_together(make, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    inputs, outputs = lengths(make(f"--lengths pairs:{tmp_path / name} --arrivals constant:1", 1_000))
    assert set(zip(inputs.tolist(), outputs.tolist(), strict=True)) == {(10, 1), (20, 2)}


def test_random_token_ids_fit_the_counts_and_the_vocabulary(make):
    file = make(f"{SHAREGPT} --token-ids random --vocab-size 5", 50)
    for request in read_dataset(file, keep_token_ids=True):
        assert request.input_token_ids is not None
        assert request.output_token_ids is not None
        assert len(request.output_token_ids) == request.output_tokens
        assert set(request.input_token_ids) <= set(range(5))


# Arrivals


@pytest.mark.parametrize(
    ("process", "cv"), [("poisson:60", 1.0), ("gamma:60:3", 3.0), ("gamma:60:0.25", 0.25)]
)
def test_random_arrivals_have_the_rate_and_variation_asked_for(make, process, cv):
    times = arrivals_ns(make(f"--input-toks 1 --output-toks 1 --arrivals {process}"))
    gaps = np.diff(times, prepend=0)
    assert gaps.mean() == pytest.approx(1e9 / 60, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_constant_arrivals_start_at_zero_and_do_not_drift(make):
    times = arrivals_ns(make("--input-toks 1 --output-toks 1 --arrivals constant:3", 3_001))
    assert times[:4].tolist() == [0, 333_333_333, 666_666_667, 1_000_000_000]
    assert times[-1] == 1_000_000_000_000


def test_bursts_come_together(make):
    times = arrivals_ns(make("--input-toks 1 --output-toks 1 --arrivals bursts:3:0.5", 7))
    assert times.tolist() == [0, 0, 0, 500_000_000, 500_000_000, 500_000_000, 1_000_000_000]


# The command line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--requests 0", "argument --requests: '0': must be a whole number of at least 1"),
        ("--seed -1", "argument --seed: '-1': must be a whole number of at least 0"),
        ("--arrivals poisson:0", "argument --arrivals: '0': must be a number from 0.001 to 1000000"),
        ("--arrivals gamma:1:nan", "argument --arrivals: 'nan': must be a number from 0.001 to 1000000"),
        (
            "--arrivals often",
            "argument --arrivals: 'often': must be "
            "poisson:RATE, gamma:RATE:CV, constant:RATE or bursts:COUNT:GAP",
        ),
        ("--input-toks 0", "argument --input-toks: '0': must be a number of tokens, at least 1"),
        ("--input-toks uniform:9:2", "argument --input-toks: '9:2': must be LOW:HIGH with LOW at most HIGH"),
        (
            "--output-toks normal:5",
            "argument --output-toks: 'normal:5': must be "
            "a number of tokens, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:LOW:HIGH]",
        ),
        ("--lengths chat", "argument --lengths: 'chat': must be sharegpt or pairs:FILE"),
        ("--lengths pairs:/no", "argument --lengths: /no: cannot be read: No such file or directory"),
        ("--input-toks 5", "give either --lengths, or both --input-toks and --output-toks"),
        (
            "--lengths sharegpt --input-toks 5",
            "give either --lengths, or both --input-toks and --output-toks",
        ),
        (
            "--lengths sharegpt --requests 100000 --arrivals bursts:1:1000000",
            "--arrivals: the last request would arrive after 2**63 ns, 292 years; raise the rate",
        ),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_status_2(tmp_path, capsys, options, message):
    file = tmp_path / "out.jsonl"
    arguments = ["--output", str(file), "--requests", "5", "--arrivals", "poisson:1", *shlex.split(options)]
    with pytest.raises(SystemExit) as stopped:
        generate.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {message} (--help explains)\n"
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "has no pairs"),
        (
            "a.csv",
            "input_toks,output_toks\n5,6\n7\n",
            "request 2: 'None': must be a number of tokens, at least 1",
        ),
        (
            "a.jsonl",
            '{"input": 5}\n',
            "request 1: has no input_toks and output_toks or ContextTokens and GeneratedTokens",
        ),
        (
            "a.txt",
            "5 6\n",
            "is neither CSV named .csv nor JSON Lines: Extra data: line 1 column 3 (char 2)",
        ),
    ],
)
def test_a_wrong_pairs_file_is_named(tmp_path, capsys, name, text, message):
    pairs = tmp_path / name
    pairs.write_text(text)
    options = f"--output {tmp_path / 'out'} --requests 5 --arrivals poisson:1 --lengths pairs:{pairs}"
    with pytest.raises(SystemExit):
        generate.main(shlex.split(options))
    assert capsys.readouterr().err == f"error: argument --lengths: {pairs}: {message} (--help explains)\n"


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit):
        generate.main(["--output", str(tmp_path / "folder"), "--requests", "5", *SHAREGPT.split()])
    assert (
        capsys.readouterr().err
        == f"error: --output: {tmp_path / 'folder'}: cannot be written: Is a directory (--help explains)\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_file_is_replaced_whole_and_is_readable_by_others_as_usual(make, tmp_path):
    file = make(SHAREGPT, 5)
    make(SHAREGPT, 6)
    (tmp_path / "plain").touch()
    assert len(read_dataset(file)) == 6
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "plain"]


def test_it_runs_as_a_script_from_any_folder(tmp_path):
    command = [sys.executable, str(DATASET / "generate.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "python dataset/generate.py --requests 100 --lengths sharegpt" in done.stdout


def test_a_line_has_the_fields_of_the_published_format_in_their_order(make):
    line = make(f"{SHAREGPT} --token-ids random", 1).read_text()
    fields = ["input_toks", "output_toks", "arrival_time_ns", "input_tok_ids", "output_tok_ids"]
    assert list(json.loads(line)) == fields

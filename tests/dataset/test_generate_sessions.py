"""Specification of dataset/generate_sessions.py: what sessions are made of, and that a seed fixes every byte."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from dataset.generate_sessions import main
from inference_serving.dataset import read_dataset

DATASET = Path(__file__).resolve().parents[2] / "dataset"
SMALL = (
    "--sessions 20 --turns uniform:1:4 --first-toks 50 --output-toks uniform:5:9 --tool-toks uniform:3:20 "
    "--tool-ms uniform:2:700 --arrivals poisson:2"
)


@pytest.fixture
def make(tmp_path):
    def run(options: str, name: str = "out.jsonl") -> Path:
        file: Path = tmp_path / name
        assert main(["--output", str(file), *shlex.split(options)]) == 0
        return file

    return run


def sessions_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_readme_command_makes_the_committed_file_and_it_is_small(make):
    text = (DATASET / "README.md").read_text(encoding="utf-8")
    (command,) = [
        line for line in text.splitlines() if line.startswith("python -m dataset.generate_sessions")
    ]
    again = make(shlex.join(shlex.split(command)[5:]))
    assert again.read_bytes() == (DATASET / "agentic_sessions.jsonl").read_bytes()
    assert again.stat().st_size < 150_000


def test_a_prompt_is_the_turn_before_and_what_the_tool_adds(make):
    sessions = sessions_of(make(SMALL))
    assert {len(one["sub_requests"]) for one in sessions} == {1, 2, 3, 4}
    for one in sessions:
        turns = one["sub_requests"]
        assert turns[0]["input_toks"] == 50
        for turn, following in pairwise(turns):
            assert 3 <= following["input_toks"] - turn["input_toks"] - turn["output_toks"] <= 20
            assert 2_000_000 <= turn["tool_duration_ns"] <= 700_000_000
        assert "tool_duration_ns" not in turns[-1]


def test_random_ids_hold_the_history_and_the_tokens_that_all_sessions_share(make):
    sessions = sessions_of(make(f"{SMALL} --token-ids random --shared-toks 30"))
    assert len({tuple(one["sub_requests"][0]["input_tok_ids"][:30]) for one in sessions}) == 1
    assert len({tuple(one["sub_requests"][0]["input_tok_ids"]) for one in sessions}) == len(sessions)
    for one in sessions:
        for turn, following in pairwise(one["sub_requests"]):
            history = turn["input_tok_ids"] + turn["output_tok_ids"]
            assert following["input_tok_ids"][: len(history)] == history


def test_ids_change_nothing_else_and_can_be_read(make):
    without, with_ids = make(SMALL, "a"), make(f"{SMALL} --token-ids random", "b")
    assert read_dataset(with_ids) == read_dataset(without)
    assert read_dataset(with_ids, keep_token_ids=True)[0].input_token_ids is not None


def test_one_seed_makes_the_same_bytes_and_another_seed_others(make):
    first = make(f"{SMALL} --seed 7 --token-ids random", "a").read_bytes()
    assert make(f"{SMALL} --seed 7 --token-ids random", "b").read_bytes() == first
    assert make(f"{SMALL} --seed 8 --token-ids random", "c").read_bytes() != first


def test_shared_tokens_need_ids(make, capsys):
    with pytest.raises(SystemExit) as caught:
        make(f"{SMALL} --shared-toks 5")
    assert caught.value.code == 2
    assert "--shared-toks: needs --token-ids random" in capsys.readouterr().err

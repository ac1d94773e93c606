"""Conversations of several turns: what each turn's prompt holds, and that the committed file can be made again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from dataset.conversations import conversations, main
from inference_serving.dataset import read_dataset

COMMITTED = Path(__file__).resolve().parents[2] / "dataset" / "conversations.jsonl"


def test_the_committed_file_is_what_the_generator_makes(tmp_path):
    main([str(tmp_path / "made.jsonl")])
    assert (tmp_path / "made.jsonl").read_bytes() == COMMITTED.read_bytes()


def test_a_turn_begins_with_all_that_was_said_before():
    turns = conversations(1, 5, seed=3)
    for before, after in pairwise(turns):
        said = [*before["input_tok_ids"], *before["output_tok_ids"]]
        assert after["input_tok_ids"][: len(said)] == said
        assert len(after["input_tok_ids"]) > len(said)


def test_the_file_can_be_read_in_order_of_arrival():
    requests = read_dataset(COMMITTED, 40, keep_token_ids=True)
    arrivals = [request.arrival_ns for request in requests]
    assert arrivals == sorted(arrivals)
    assert all(request.input_token_ids and request.output_token_ids for request in requests)

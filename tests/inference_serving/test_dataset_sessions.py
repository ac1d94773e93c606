"""Specification of sessions in a workload: the turns that a line becomes, and the words for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from astra_sim.input_error import InputError
from inference_serving.dataset import read_dataset
from inference_serving.request_spec import RequestSpec, SessionTurn

TURN = {"input_toks": 3, "output_toks": 2}
LARGEST = 2**62


def session(*turns: Any, at_ns: int = 0, **line: Any) -> dict[str, Any]:
    return {"arrival_time_ns": at_ns, "sub_requests": list(turns), **line}


def write(folder: Path, *lines: dict[str, Any]) -> Path:
    file = folder / "workload.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def ids_of(specs: list[RequestSpec]) -> list[tuple[int, ...]]:
    return [(spec.input_token_ids or ()) + (spec.output_token_ids or ()) for spec in specs]


def test_each_turn_becomes_a_request_that_knows_its_place_and_the_tool_time_before_it(tmp_path):
    turns = [{**TURN, "tool_duration_ns": 70}, TURN, {**TURN, "tool_duration_ns": 9}]
    specs = read_dataset(write(tmp_path, session(*turns, at_ns=5, session_id="fix-1")))
    assert [spec.session for spec in specs] == [
        SessionTurn("fix-1", 0, 3, 0),
        SessionTurn("fix-1", 1, 3, 70),
        SessionTurn("fix-1", 2, 3, 0),
    ]
    assert [(spec.request_id, spec.arrival_ns) for spec in specs] == [(0, 5), (1, 5), (2, 5)]


def test_requests_and_sessions_mix_and_are_numbered_in_line_order(tmp_path):
    alone = {**TURN, "arrival_time_ns": 1}
    specs = read_dataset(write(tmp_path, session(TURN, TURN), alone, session(TURN, at_ns=1)))
    names = [spec.session and spec.session.session_id for spec in specs]
    assert names == ["0", "0", None, "1"]
    assert [spec.request_id for spec in specs] == [0, 1, 2, 3]


def test_a_session_counts_as_one_of_the_first_requests_taken(tmp_path):
    file = write(tmp_path, session(TURN, TURN), session(TURN), session(TURN))
    assert len(read_dataset(file, 2)) == 3


def test_turns_take_class_and_priority_of_their_line_unless_they_have_their_own(tmp_path):
    own = {**TURN, "priority": 0, "class": "final"}
    line = session({**TURN, "priority": None}, own, priority=4, **{"class": "agent"})
    specs = read_dataset(write(tmp_path, line))
    assert [(spec.priority, spec.request_class) for spec in specs] == [(4, "agent"), (0, "final")]


def test_given_token_ids_are_kept_as_they_are(tmp_path):
    first = {**TURN, "input_tok_ids": [1, 2, 3], "output_tok_ids": [4, 5]}
    second = {**TURN, "input_tok_ids": [1, 9, 9]}
    specs = read_dataset(write(tmp_path, session(first, second)), keep_token_ids=True)
    assert ids_of(specs) == [(1, 2, 3, 4, 5), (1, 9, 9)]


def test_without_ids_a_prompt_begins_with_the_turn_before_and_the_rest_is_new(tmp_path):
    grown = {"input_toks": 7, "output_toks": 1}
    first, second = read_dataset(write(tmp_path, session(TURN, grown)), keep_token_ids=True)
    history = first.input_token_ids + first.output_token_ids
    assert second.input_token_ids[:5] == history
    assert len(set(second.input_token_ids + second.output_token_ids)) == 8


def test_a_prompt_shorter_than_the_history_is_its_head(tmp_path):
    cut = {"input_toks": 4, "output_toks": 1}
    first, second = read_dataset(write(tmp_path, session(TURN, cut)), keep_token_ids=True)
    assert second.input_token_ids == (first.input_token_ids + first.output_token_ids)[:4]


def test_made_up_ids_are_in_no_other_session_and_in_no_vocabulary(tmp_path):
    specs = read_dataset(write(tmp_path, session(TURN), session(TURN)), keep_token_ids=True)
    assert not set(ids_of(specs)[0]) & set(ids_of(specs)[1])
    assert max(max(ids) for ids in ids_of(specs)) < 0


def test_ids_are_dropped_where_nobody_needs_them(tmp_path):
    first = {**TURN, "input_tok_ids": [1, 2, 3]}
    assert ids_of(read_dataset(write(tmp_path, session(first), session(TURN)))) == [(), ()]


def error_of(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (session(), "sub_requests: has no turns; give at least one"),
        (session(TURN, sub_requests=7), "sub_requests: 7: must be a list of turns"),
        (session(TURN, at_ns=-1), "arrival_time_ns: -1: must be at least 0"),
        (session(TURN, session_id="two words"), 'session_id: "two words": must be one word of at most 32 '),
        (
            session(TURN, session_id="same"),
            "session_id: same: is the session of line 1 too; names must differ",
        ),
        (session(TURN, 5), "sub_requests[1]: 5: must be a JSON object such as"),
        (session(TURN, {"input_toks": 3}), "sub_requests[1].output_toks: this field is required"),
        (session({**TURN, "input_toks": 0}), "sub_requests[0].input_toks: 0: must be at least 1"),
        (
            session({**TURN, "tool_duration_ns": -1}),
            "sub_requests[0].tool_duration_ns: -1: must be at least 0",
        ),
        (
            session({**TURN, "tool_duration_ns": LARGEST}, TURN, at_ns=1),
            f"sub_requests[0].tool_duration_ns: {LARGEST}: the next turn would arrive after {LARGEST} ns",
        ),
        (
            session({**TURN, "input_tok_ids": [1, -2, 3]}),
            "sub_requests[0].input_tok_ids[1]: -2: must be an integer of at least 0",
        ),
        (
            session({**TURN, "input_tok_ids": [1, 2, 3]}, TURN),
            "sub_requests[1].input_tok_ids: give token ids for every prompt of a session or for none",
        ),
        (
            session({**TURN, "output_tok_ids": [1, 2]}),
            "sub_requests[0].output_tok_ids: needs input_tok_ids: tokens are found again with all before them",
        ),
    ],
)
def test_what_is_wrong_is_named_with_line_turn_and_field(tmp_path, line, message):
    file = write(tmp_path, session(TURN, session_id="same"), line)
    assert error_of(file).startswith(f"{file}: line 2: {message}")

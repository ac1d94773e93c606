"""Specification of workload files: what is read, and the exact words for every line that is wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astra_sim.input_error import InputError
from inference_serving.dataset import read_dataset
from inference_serving.request_spec import RequestSpec

GOOD = {"input_toks": 3, "output_toks": 2, "arrival_time_ns": 1_000}
LARGEST = 2**62
WORD = "must be one word of at most 32 letters, digits, '_', '.' or '-'"


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    file = folder / "workload.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return file


def error_of(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(file, None)
    return str(caught.value)


def test_a_line_becomes_a_request(tmp_path):
    assert read_dataset(write(tmp_path, GOOD)) == [
        RequestSpec(request_id=0, arrival_ns=1_000, input_tokens=3, output_tokens=2, priority=0)
    ]


def test_requests_are_numbered_in_line_order_and_blank_lines_do_not_count(tmp_path):
    file = write(tmp_path, "", GOOD, "  \t", GOOD, {**GOOD, "arrival_time_ns": 2_000}, "")
    requests = read_dataset(file)
    assert [(r.request_id, r.arrival_ns) for r in requests] == [(0, 1_000), (1, 1_000), (2, 2_000)]


def test_the_first_requests_are_taken_and_a_short_file_gives_what_it_has(tmp_path):
    file = write(tmp_path, GOOD, GOOD, GOOD)
    assert len(read_dataset(file, 2)) == 2
    assert len(read_dataset(file, 100)) == 3


def test_lines_after_the_last_request_taken_are_not_looked_at(tmp_path):
    assert len(read_dataset(write(tmp_path, GOOD, "not JSON"), 1)) == 1


def test_a_byte_order_mark_windows_line_ends_and_a_missing_last_line_end_are_fine(tmp_path):
    file = tmp_path / "windows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([json.dumps(GOOD).encode()] * 2))
    assert len(read_dataset(file)) == 2


def test_integral_floats_and_priorities_are_read_and_unknown_fields_ignored(tmp_path):
    (request,) = read_dataset(write(tmp_path, {**GOOD, "arrival_time_ns": 1e9, "priority": -2, "note": "x"}))
    assert request.arrival_ns == 1_000_000_000
    assert type(request.arrival_ns) is int
    assert request.priority == -2


def test_token_ids_are_kept_only_when_asked(tmp_path):
    file = write(tmp_path, {**GOOD, "input_tok_ids": [5, 6, 7], "output_tok_ids": [8, 9]})
    (request,) = read_dataset(file)
    assert (request.input_token_ids, request.output_token_ids) == (None, None)
    (request,) = read_dataset(file, keep_token_ids=True)
    assert (request.input_token_ids, request.output_token_ids) == ((5, 6, 7), (8, 9))


@pytest.mark.parametrize("name", ["short", "long", "tier-1.b_2", "größer", "x" * 32])
def test_a_request_may_name_its_class(tmp_path, name):
    with_class, without = read_dataset(write(tmp_path, {**GOOD, "class": name}, GOOD))
    assert (with_class.request_class, without.request_class) == (name, None)


def test_fields_that_may_be_left_out_may_also_be_null(tmp_path):
    null = {**GOOD, "input_tok_ids": None, "output_tok_ids": None, "priority": None, "class": None}
    null["sub_requests"] = None
    assert read_dataset(write(tmp_path, null)) == read_dataset(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_toks": -3}, "input_toks: -3: must be at least 1"),
        ({"input_toks": 0}, "input_toks: 0: must be at least 1"),
        ({"output_toks": 0}, "output_toks: 0: must be at least 1"),
        ({"arrival_time_ns": -1}, "arrival_time_ns: -1: must be at least 0"),
        ({"arrival_time_ns": 2**63}, f"arrival_time_ns: {2**63}: must be at most {LARGEST}"),
        ({"input_toks": True}, "input_toks: true: must be an integer"),
        ({"input_toks": "3"}, 'input_toks: "3": must be an integer'),
        ({"input_toks": None}, "input_toks: null: must be an integer"),
        ({"output_toks": 2.5}, "output_toks: 2.5: must be an integer"),
        ({"output_toks": float("nan")}, "output_toks: NaN: must be an integer"),
        ({"output_toks": [2]}, "output_toks: a list: must be an integer"),
        ({"priority": "high"}, 'priority: "high": must be an integer'),
        ({"input_toks": "x" * 99}, f'input_toks: "{"x" * 39}...: must be an integer'),
        ({"class": 5}, f"class: 5: {WORD}"),
        ({"class": ""}, f'class: "": {WORD}'),
        ({"class": "two words"}, f'class: "two words": {WORD}'),
        ({"class": "a,b"}, f'class: "a,b": {WORD}'),
        ({"class": "word\n"}, f'class: "word\\n": {WORD}'),
        ({"class": "x" * 33}, f'class: "{"x" * 33}": {WORD}'),
        (
            {"input_tok_ids": [1, 2]},
            "input_tok_ids: has 2 ids, but input_toks is 3; make them equal",
        ),
        (
            {"output_tok_ids": [1, 2, 3]},
            "output_tok_ids: has 3 ids, but output_toks is 2; make them equal",
        ),
        ({"input_tok_ids": "abc"}, 'input_tok_ids: "abc": must be a list of token ids'),
        ({"input_tok_ids": [1, 2.0, 3]}, "input_tok_ids[1]: 2.0: must be an integer of at least 0"),
        ({"input_tok_ids": [1, 2, -3]}, "input_tok_ids[2]: -3: must be an integer of at least 0"),
        ({"input_tok_ids": [True, 2, 3]}, "input_tok_ids[0]: true: must be an integer of at least 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_line_and_value(tmp_path, change, message):
    file = write(tmp_path, GOOD, "", {**GOOD, **change})
    assert error_of(file) == f"{file}: line 3: {message}"


@pytest.mark.parametrize("field", ["input_toks", "output_toks", "arrival_time_ns"])
def test_a_missing_field_is_named(tmp_path, field):
    file = write(tmp_path, {name: value for name, value in GOOD.items() if name != field})
    assert error_of(file) == f"{file}: line 1: {field}: this field is required"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input_toks": }', "not valid JSON: Expecting value at column 16"),
        ("input_toks=3", "not valid JSON: Expecting value at column 1"),
        ("{} {}", "not valid JSON: Extra data at column 4"),
    ],
)
def test_a_line_that_is_not_json_says_where_it_breaks(tmp_path, line, message):
    file = write(tmp_path, GOOD, line)
    assert error_of(file) == f"{file}: line 2: {message}; write one object a line"


def test_a_line_must_be_an_object(tmp_path):
    file = write(tmp_path, "[1, 2]")
    assert (
        error_of(file) == f'{file}: line 1: a list: must be a JSON object such as {{"input_toks": 128, ...}}'
    )


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5_000], ids=["deep brackets", "long number"])
def test_json_beyond_the_parser_is_an_input_error_too(tmp_path, line):
    assert error_of(write(tmp_path, line)).startswith(
        f"{tmp_path / 'workload.jsonl'}: line 1: not valid JSON: "
    )


def test_unsorted_arrivals_name_both_lines_and_the_way_to_sort(tmp_path):
    file = write(tmp_path, GOOD, "", {**GOOD, "arrival_time_ns": 999})
    assert error_of(file) == (
        f"{file}: line 3: arrival_time_ns: 999: is earlier than 1000 on line 1; sort the requests by arrival "
        f"time: jq -c -s 'sort_by(.arrival_time_ns)[]' {file} > sorted.jsonl"
    )


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_requests_is_an_error(tmp_path, text):
    file = tmp_path / "empty.jsonl"
    file.write_text(text)
    assert error_of(file) == f"{file}: has no requests; write one JSON object a line"


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert error_of(tmp_path / "none.jsonl") == f"{tmp_path / 'none.jsonl'}: no such file"
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    binary = tmp_path / "workload.gz"
    binary.write_bytes(b"\x1f\x8b\x08\x00\xff")
    assert error_of(binary) == f"{binary}: not a UTF-8 text file; a workload is JSON Lines"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
fields = [*GOOD, "input_tok_ids", "output_tok_ids", "priority", "class", "sub_requests"]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(fields), values))
def test_any_line_is_either_a_valid_request_or_an_input_error(tmp_path_factory, change):
    file = write(tmp_path_factory.getbasetemp(), {**GOOD, **change})
    try:
        requests = read_dataset(file, keep_token_ids=True)
    except InputError as error:
        assert error.field.startswith("line 1")
        return
    for request in requests:
        assert request.input_tokens >= 1
        assert request.output_tokens >= 1
        assert 0 <= request.arrival_ns <= LARGEST
        assert request.input_token_ids is None or len(request.input_token_ids) == request.input_tokens


def test_ten_thousand_lines_are_read_quickly(tmp_path):
    file = write(tmp_path, *[{**GOOD, "arrival_time_ns": 1_000 * i} for i in range(10_000)])
    started = time.process_time()
    assert len(read_dataset(file)) == 10_000
    assert time.process_time() - started < 1.0  # 0.03 s on a laptop; the slack is for busy test machines

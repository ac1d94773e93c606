"""Read workloads: JSON Lines files with one request a line.

    {"input_toks": 128, "output_toks": 32, "arrival_time_ns": 46926808}

Optional fields are ``input_tok_ids`` and ``output_tok_ids`` (lists of token ids, as long as the counts say),
``priority`` (an integer, lower goes sooner) and ``class`` (a word). Other fields are ignored, and so are blank
lines. Lines are sorted by arrival time. The checks are written by hand because a workload may have very many
lines; nothing behind :func:`read_dataset` checks a request again.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError
from inference_serving.request_spec import RequestSpec

_LARGEST = 2**62  # so that times stay far below 2**63 ns
_MAX_SHOWN_CHARS = 40
_MAX_CLASS_CHARS = 32
_WORD = re.compile(r"[\w.-]+")


class _LineError(ValueError):
    """Something wrong with one line; :func:`_requests` adds the file and the line number."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(field, message)


def read_dataset(
    path: str | Path, num_requests: int | None = None, *, keep_token_ids: bool = False
) -> list[RequestSpec]:
    """Read and check the first ``num_requests`` requests of a workload, or all of them.

    Args:
        path: The JSON Lines file.
        num_requests: How many requests to take, at least 1; None takes all. A shorter file gives what it has.
            Lines after the last request taken are not looked at.
        keep_token_ids: Keep the token ids (they are checked in any case); only prefix caching needs them.

    Returns:
        Requests in order of arrival, numbered from 0.

    Raises:
        InputError: The file cannot be read, has no requests, or a line is wrong; the message names the line.
    """
    file = Path(path)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            requests = list(islice(_requests(file, lines, keep_token_ids), num_requests))
    except FileNotFoundError:
        raise InputError(file, "", "no such file") from None
    except UnicodeDecodeError:
        raise InputError(file, "", "not a UTF-8 text file; a workload is JSON Lines") from None
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None
    if not requests:
        raise InputError(file, "", "has no requests; write one JSON object a line")
    return requests


def _requests(file: Path, lines: Iterator[str], keep_token_ids: bool) -> Iterator[RequestSpec]:
    """Yield the requests of ``lines``, turning whatever is wrong into an :class:`InputError`."""
    request_id = 0
    previous_line, previous_ns = 0, 0
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            request = _parse(line, request_id, keep_token_ids)
            if request.arrival_ns < previous_ns:
                raise _unsorted(file, request.arrival_ns, previous_line, previous_ns)
        except _LineError as error:
            where = f"line {number}: {error.field}" if error.field else f"line {number}"
            raise InputError(file, where, error.message) from None
        yield request
        previous_line, previous_ns = number, request.arrival_ns
        request_id += 1


def _parse(line: str, request_id: int, keep_token_ids: bool) -> RequestSpec:
    """Turn one line into a request."""
    record = _json_object(line)
    if "sub_requests" in record:
        raise _LineError("sub_requests", "sessions are not supported yet; write each request on its own line")
    input_tokens = _integer(record, "input_toks", minimum=1)
    output_tokens = _integer(record, "output_toks", minimum=1)
    arrival_ns = _integer(record, "arrival_time_ns", minimum=0)
    priority = _integer(record, "priority", minimum=-_LARGEST) if record.get("priority") is not None else 0
    input_ids = output_ids = None
    if record.get("input_tok_ids") is not None:
        input_ids = _token_ids(record, "input_tok_ids", "input_toks", input_tokens)
    if record.get("output_tok_ids") is not None:
        output_ids = _token_ids(record, "output_tok_ids", "output_toks", output_tokens)
    return RequestSpec(
        request_id,
        arrival_ns,
        input_tokens,
        output_tokens,
        priority,
        tuple(input_ids) if keep_token_ids and input_ids is not None else None,
        tuple(output_ids) if keep_token_ids and output_ids is not None else None,
        request_class=_word(record, "class") if record.get("class") is not None else None,
    )


def _json_object(line: str) -> dict[str, Any]:
    """Parse one line as a JSON object."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise _LineError(
            "", f"not valid JSON: {error.msg} at column {error.colno}; write one object a line"
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # numbers of thousands of digits, brackets nested without end
        raise _LineError("", f"not valid JSON: {error}") from None
    if type(record) is not dict:
        raise _LineError("", f'{_shown(record)}: must be a JSON object such as {{"input_toks": 128, ...}}')
    return record


def _integer(record: dict[str, Any], field: str, minimum: int) -> int:
    """Read an integer field; a float is taken if it is integral, and a bool never."""
    try:
        value = record[field]
    except KeyError:
        raise _LineError(field, "this field is required") from None
    if type(value) is not int:
        if type(value) is not float or not value.is_integer():
            raise _LineError(field, f"{_shown(value)}: must be an integer")
        value = int(value)
    if value < minimum:
        raise _LineError(field, f"{value}: must be at least {minimum}")
    if value > _LARGEST:
        raise _LineError(field, f"{_shown(value)}: must be at most {_LARGEST}")
    return value


def _word(record: dict[str, Any], field: str) -> str:
    """Read a word of letters, digits and ``_.-``, which a CSV and a file name can hold as it is."""
    value = record[field]
    if type(value) is not str or len(value) > _MAX_CLASS_CHARS or not _WORD.fullmatch(value):
        raise _LineError(
            field,
            f"{_shown(value)}: must be one word of at most {_MAX_CLASS_CHARS} letters, digits, '_', '.' or '-'",
        )
    return value


def _token_ids(record: dict[str, Any], field: str, count_field: str, count: int) -> list[int]:
    """Read a list of token ids whose length must be ``count``."""
    ids = record[field]
    if type(ids) is not list:
        raise _LineError(field, f"{_shown(ids)}: must be a list of token ids")
    if len(ids) != count:
        raise _LineError(field, f"has {len(ids)} ids, but {count_field} is {count}; make them equal")
    if set(map(type, ids)) != {int} or min(ids) < 0:
        position, wrong = next((i, x) for i, x in enumerate(ids) if type(x) is not int or x < 0)
        raise _LineError(f"{field}[{position}]", f"{_shown(wrong)}: must be an integer of at least 0")
    return ids


def _unsorted(file: Path, arrival_ns: int, previous_line: int, previous_ns: int) -> _LineError:
    """Say which two lines are out of order and how to sort the file."""
    command = f"jq -c -s 'sort_by(.arrival_time_ns)[]' {shlex.quote(str(file))} > sorted.jsonl"
    return _LineError(
        "arrival_time_ns",
        f"{arrival_ns}: is earlier than {previous_ns} on line {previous_line}; "
        f"sort the requests by arrival time: {command}",
    )


def _shown(value: object) -> str:
    """Write a value as the file has it, cut to a length that fits a message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "..."

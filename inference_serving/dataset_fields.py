"""One request of a workload, field by field: what each may hold, and the words for what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

from inference_serving.request_spec import RequestSpec

LARGEST = 2**62  # so that times stay far below 2**63 ns
_MAX_SHOWN_CHARS = 40
_MAX_WORD_CHARS = 32
_WORD = re.compile(r"[\w.-]+")


class LineError(ValueError):
    """Something wrong with one line; whoever reads the file adds its name and the line number."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(field, message)


def json_object(line: str) -> dict[str, Any]:
    """Parse one line as a JSON object."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise LineError(
            "", f"not valid JSON: {error.msg} at column {error.colno}; write one object a line"
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # numbers of thousands of digits, brackets nested without end
        raise LineError("", f"not valid JSON: {error}") from None
    if type(record) is not dict:
        raise LineError("", f'{shown(record)}: must be a JSON object such as {{"input_toks": 128, ...}}')
    return record


def request_of(
    record: dict[str, Any], request_id: int, arrival_ns: int, *, keep_token_ids: bool
) -> RequestSpec:
    """The request that ``record`` describes; its arrival is the caller's to read."""
    input_tokens = integer(record, "input_toks", minimum=1)
    output_tokens = integer(record, "output_toks", minimum=1)
    priority = integer(record, "priority", minimum=-LARGEST) if record.get("priority") is not None else 0
    input_ids = output_ids = None
    if record.get("input_tok_ids") is not None:
        input_ids = token_ids(record, "input_tok_ids", "input_toks", input_tokens)
    if record.get("output_tok_ids") is not None:
        output_ids = token_ids(record, "output_tok_ids", "output_toks", output_tokens)
    return RequestSpec(
        request_id,
        arrival_ns,
        input_tokens,
        output_tokens,
        priority,
        tuple(input_ids) if keep_token_ids and input_ids is not None else None,
        tuple(output_ids) if keep_token_ids and output_ids is not None else None,
        request_class=word(record, "class") if record.get("class") is not None else None,
    )


def integer(record: dict[str, Any], field: str, minimum: int) -> int:
    """Read an integer field; a float is taken if it is integral, and a bool never."""
    try:
        value = record[field]
    except KeyError:
        raise LineError(field, "this field is required") from None
    if type(value) is not int:
        if type(value) is not float or not value.is_integer():
            raise LineError(field, f"{shown(value)}: must be an integer")
        value = int(value)
    if value < minimum:
        raise LineError(field, f"{value}: must be at least {minimum}")
    if value > LARGEST:
        raise LineError(field, f"{shown(value)}: must be at most {LARGEST}")
    return value


def word(record: dict[str, Any], field: str) -> str:
    """Read a word of letters, digits and ``_.-``, which a CSV and a file name can hold as it is."""
    value = record[field]
    if type(value) is not str or len(value) > _MAX_WORD_CHARS or not _WORD.fullmatch(value):
        raise LineError(
            field,
            f"{shown(value)}: must be one word of at most {_MAX_WORD_CHARS} letters, digits, '_', '.' or '-'",
        )
    return value


def token_ids(record: dict[str, Any], field: str, count_field: str, count: int) -> list[int]:
    """Read a list of token ids whose length must be ``count``."""
    ids = record[field]
    if type(ids) is not list:
        raise LineError(field, f"{shown(ids)}: must be a list of token ids")
    if len(ids) != count:
        raise LineError(field, f"has {len(ids)} ids, but {count_field} is {count}; make them equal")
    if set(map(type, ids)) != {int} or min(ids) < 0:
        position, wrong = next((i, x) for i, x in enumerate(ids) if type(x) is not int or x < 0)
        raise LineError(f"{field}[{position}]", f"{shown(wrong)}: must be an integer of at least 0")
    return ids


def shown(value: object) -> str:
    """Write a value as the file has it, cut to a length that fits a message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "..."

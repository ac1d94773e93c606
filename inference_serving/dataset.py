"""Read workloads: JSON Lines files with one request, or one session of several requests, a line.

    {"input_toks": 128, "output_toks": 32, "arrival_time_ns": 46926808}

Optional fields are ``input_tok_ids`` and ``output_tok_ids`` (lists of token ids, as long as the counts say),
``priority`` (an integer, lower goes sooner) and ``class`` (a word). A line with ``sub_requests`` is a session, see
:mod:`inference_serving.dataset_sessions`. Other fields are ignored, and so are blank lines. Lines are sorted by
arrival time. The checks are written by hand because a workload may have very many lines; nothing behind
:func:`read_dataset` checks a request again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.dataset_fields import LineError, integer, json_object, request_of
from inference_serving.dataset_sessions import SessionReader
from inference_serving.request_spec import RequestSpec


def read_dataset(
    path: str | Path, num_requests: int | None = None, *, keep_token_ids: bool = False
) -> list[RequestSpec]:
    """Read and check the first ``num_requests`` requests of a workload, or all of them; a session counts as one.

    Args:
        path: The JSON Lines file.
        num_requests: How many requests to take, at least 1; None takes all. A shorter file gives what it has.
            Lines after the last request taken are not looked at.
        keep_token_ids: Keep the token ids (they are checked in any case); only prefix caching needs them.

    Returns:
        Requests in order of arrival, numbered from 0; the turns of a session come one after the other.

    Raises:
        InputError: The file cannot be read, has no requests, or a line is wrong; the message names the line.
    """
    file = Path(path)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            of_lines = islice(_of_lines(file, lines, keep_token_ids), num_requests)
            requests = list(chain.from_iterable(of_lines))
    except FileNotFoundError:
        raise InputError(file, "", "no such file") from None
    except UnicodeDecodeError:
        raise InputError(file, "", "not a UTF-8 text file; a workload is JSON Lines") from None
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None
    if not requests:
        raise InputError(file, "", "has no requests; write one JSON object a line")
    return requests


def _of_lines(file: Path, lines: Iterator[str], keep_token_ids: bool) -> Iterator[list[RequestSpec]]:
    """Yield what each of ``lines`` asks for, turning whatever is wrong into an :class:`InputError`."""
    request_id = 0
    previous_line, previous_ns = 0, 0
    sessions = SessionReader(keep_token_ids)
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            record = json_object(line)
            arrival_ns = integer(record, "arrival_time_ns", minimum=0)
            if record.get("sub_requests") is not None:
                requests = sessions.read(record, number, request_id, arrival_ns)
            else:
                requests = [request_of(record, request_id, arrival_ns, keep_token_ids=keep_token_ids)]
            if arrival_ns < previous_ns:
                raise _unsorted(file, arrival_ns, previous_line, previous_ns)
        except LineError as error:
            where = f"line {number}: {error.field}" if error.field else f"line {number}"
            raise InputError(file, where, error.message) from None
        yield requests
        previous_line, previous_ns = number, arrival_ns
        request_id += len(requests)


def _unsorted(file: Path, arrival_ns: int, previous_line: int, previous_ns: int) -> LineError:
    """Say which two lines are out of order and how to sort the file."""
    command = f"jq -c -s 'sort_by(.arrival_time_ns)[]' {shlex.quote(str(file))} > sorted.jsonl"
    return LineError(
        "arrival_time_ns",
        f"{arrival_ns}: is earlier than {previous_ns} on line {previous_line}; "
        f"sort the requests by arrival time: {command}",
    )

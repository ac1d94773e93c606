"""What all formats share: a trace, and reading one row after the other with errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from astra_sim.input_error import InputError
from dataset.workload import WorkloadRequest
from inference_serving.validation.readers.base import Fields, text_lines

_MOST_TOKENS = 2**31
_LARGEST_NS = 2**62


@dataclass(frozen=True, slots=True)
class Trace:
    """What a file says.

    Attributes:
        requests: Sorted by arrival, the first at 0; all of them have tokens in and out.
        left_out: How many requests are not among them, by reason.
        arrivals_known: False if the file has an order of requests but no arrival times (all are 0 then).
    """

    requests: Sequence[WorkloadRequest]
    left_out: Mapping[str, int] = field(default_factory=dict)
    arrivals_known: bool = True


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One format: its name on the command line, what it reads, and how.

    ``block_toks`` is how many tokens a block of ``WorkloadRequest.blocks`` has; None if requests have none.
    ``read`` raises InputError for a file that is wrong.
    """

    name: str
    what: str
    read: Callable[[Path], Trace]
    block_toks: int | None = None


def trace_of(file: Path, requests: list[WorkloadRequest]) -> Trace:
    """Sort requests by arrival, let the first arrive at 0, and leave out those without tokens."""
    if not requests:
        raise InputError(file, "", "has no requests")
    first_ns = min(request.arrival_ns for request in requests)
    kept = [
        replace(request, arrival_ns=request.arrival_ns - first_ns)
        for request in requests
        if request.input_toks and request.output_toks
    ]
    empty = len(requests) - len(kept)
    return Trace(
        sorted(kept, key=lambda request: request.arrival_ns),
        {"without prompt or answer tokens": empty} if empty else {},
    )


def csv_rows(file: Path, columns: Sequence[str], texts: Collection[str] = ()) -> Iterator[Fields]:
    """The rows of a CSV file with a header, which must have ``columns``.

    Cells that are numbers are floats, save in the columns ``texts``.
    """
    lines = text_lines(file)
    number, head = next(lines, (1, ""))
    header = _cells(head)
    for name in columns:
        if name not in header:
            raise InputError(file, f"line {number}", f"has no column named {name}; is it in this format?")
    for number, line in lines:
        cells = _cells(line)
        if len(cells) != len(header):
            raise InputError(
                file, f"line {number}", f"has {len(cells)} columns, but the header has {len(header)}"
            )
        row = dict(zip(header, cells, strict=True))
        yield Fields(
            file,
            f"line {number}",
            {name: cell if name in texts else _value(cell) for name, cell in row.items()},
        )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line]), [])]


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def tokens(row: Fields, name: str) -> int:
    """A number of tokens, at least 0."""
    value = row.count(name)
    if value > _MOST_TOKENS:
        raise row.error(name, f"{value}: must be at most {_MOST_TOKENS}")
    return value


def time_ns(row: Fields, name: str, unit_ns: float) -> int:
    """A time of at least 0 in units of ``unit_ns``, as ns."""
    value = row.number(name)
    if not 0 <= value * unit_ns <= _LARGEST_NS:
        raise row.error(name, f"{value:g}: must be between 0 and {_LARGEST_NS / unit_ns:.3g}")
    return round(value * unit_ns)

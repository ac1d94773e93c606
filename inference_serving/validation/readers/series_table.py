"""A throughput series, ``.tsv`` or ``.csv``: a time column (s) and tokens a second.

``time_s throughput`` (generated tokens), or ``t,prompt_throughput,gen_throughput,...``. The row of time
``t`` is the mean over the interval that ends at ``t``; rows are equally spaced.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.validation.readers.base import Fields, Head, Reader, text_lines
from inference_serving.validation.run import FloatArray, Run, Series

_TIMES = ("time_s", "time", "t")
_GENERATED = ("throughput", "gen_throughput")
_PROMPT = "prompt_throughput"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter="\t" if "\t" in line else ","), [])]


def _recognises(head: Head) -> bool:
    header = _cells(head.line)
    return any(name in header for name in _TIMES) and any(name in header for name in _GENERATED)


def _read(file: Path) -> Run:
    return Run(file=file, format=READER.name, series=read_series(file))


def read_series(file: Path) -> Series:
    """Read a throughput series; raises InputError naming line and column."""
    header, rows = _table(file)
    time = _column(file, header, _TIMES)
    generated = _column(file, header, _GENERATED)
    _check_rows(file, rows)
    times = np.array([row.number(time) for row in rows])
    step = common_step(file, time, times)
    first = round(times[0] / step)
    prompt = [row.number(_PROMPT) for row in rows] if _PROMPT in header else None
    return Series(
        step_s=step,
        generated=_placed([row.number(generated) for row in rows], first),
        prompt=None if prompt is None else _placed(prompt, first),
    )


def read_columns(file: Path, names: tuple[str, ...]) -> list[FloatArray]:
    """Read columns of numbers; raises InputError naming line and column."""
    header, rows = _table(file)
    columns = [_column(file, header, (name,)) for name in names]
    _check_rows(file, rows)
    return [np.array([row.number(column) for row in rows]) for column in columns]


def _table(file: Path) -> tuple[list[str], list[Fields]]:
    (_, head), *rest = [*text_lines(file)] or [(0, "")]
    header = _cells(head)
    return header, [_row(file, number, header, _cells(line)) for number, line in rest]


def _check_rows(file: Path, rows: list[Fields]) -> None:
    if len(rows) < 2:
        raise InputError(file, "", "must have at least two rows below its header")


def _column(file: Path, header: list[str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in header:
            return name
    raise InputError(file, "line 1", f"has no column named {' or '.join(names)}")


def _row(file: Path, number: int, header: list[str], cells: list[str]) -> Fields:
    if len(cells) != len(header):
        raise InputError(
            file, f"line {number}", f"has {len(cells)} columns, but the header has {len(header)}"
        )
    values: dict[str, object] = {}
    for name, cell in zip(header, cells, strict=True):
        try:
            values[name] = float(cell)
        except ValueError:
            values[name] = cell
    return Fields(file, f"line {number}", values)


def common_step(file: Path, column: str, times: FloatArray) -> float:
    """The common distance of the rows, in seconds; raises InputError if they are not equally spaced."""
    steps = np.diff(times)
    step = float(np.median(steps))
    if step <= 0 or not np.allclose(steps, step, rtol=0.01) or times[0] < 0:
        raise InputError(file, column, "must rise from 0 or more in equal steps")
    return step


def _placed(values: list[float], first: int) -> FloatArray:
    """Put the interval that ends at ``first`` steps in its place; a row at time 0 covers nothing."""
    if first == 0:
        return np.array(values[1:])
    return np.array([0.0] * (first - 1) + values)


READER = Reader("series", "tokens a second over time, .tsv or .csv", _recognises, _read)

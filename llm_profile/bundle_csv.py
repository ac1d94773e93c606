"""Read the CSV files of a bundle: columns by name, every row checked, microseconds to nanoseconds.

Columns that are not asked for are ignored. A row that repeats another's key, or a time that no card shows,
is an error that names the file, the line and the reason.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TIME_COLUMN = "time_us"
NS_PER_US = 1e3
IMPOSSIBLE_FALL = 4.0
"""More work may measure a little faster (another kernel, noise: up to 2.5 times), never this much."""


@dataclass(frozen=True)
class Rows:
    """Rows of one file: integer keys ``[rows, key columns]``, times in ns, and where each row was."""

    file: Path
    keys: Ints
    ns: Floats
    lines: Ints


def read_layer_rows(file: Path, count_column: str) -> dict[str, Rows]:
    """Rows of ``layer,{count_column},time_us`` by layer, sorted by the count (tokens or sequences)."""
    names: list[str] = []
    keys: list[int] = []
    ns: list[float] = []
    lines: list[int] = []
    for line, (name, count, us) in _records(file, ("layer", count_column, TIME_COLUMN)):
        names.append(name.strip())
        keys.append(whole(file, line, count_column, count, at_least=1))
        ns.append(time_ns(file, line, us))
        lines.append(line)
    layers = np.array(names)
    tables: dict[str, Rows] = {}
    for name in dict.fromkeys(names):
        mine = np.flatnonzero(layers == name)
        mine = mine[np.argsort(np.array(keys)[mine], kind="stable")]
        rows = Rows(file, np.array(keys)[mine][:, None], np.array(ns)[mine], np.array(lines)[mine])
        refuse_repeats(rows, (count_column,))
        _refuse_falls(rows, f"{name} of {{}} {count_column}")
        tables[name] = rows
    return tables


def read_key_rows(file: Path, columns: Sequence[str]) -> Rows:
    """Rows of ``{columns},time_us`` with whole, non-negative keys."""
    keys: list[list[int]] = []
    ns: list[float] = []
    lines: list[int] = []
    for line, (*texts, us) in _records(file, (*columns, TIME_COLUMN)):
        keys.append([whole(file, line, name, text) for name, text in zip(columns, texts, strict=True)])
        ns.append(time_ns(file, line, us))
        lines.append(line)
    rows = Rows(file, np.array(keys, dtype=np.int64), np.array(ns), np.array(lines))
    refuse_repeats(rows, columns)
    return rows


def read_text_rows(file: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """(line, cells of ``columns``) of every row."""
    return list(_records(file, columns))


def whole(file: Path, line: int, column: str, text: str, at_least: int = 0) -> int:
    """A whole number of at least ``at_least``; ``16.0`` counts as one."""
    value = number(file, line, column, text)
    if value != int(value) or value < at_least:
        raise InputError(file, f"line {line}", f"{column} is {text}: must be a whole number >= {at_least}")
    return int(value)


def number(file: Path, line: int, column: str, text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise InputError(file, f"line {line}", f"{column} is {text!r}: not a number") from None
    if not np.isfinite(value):
        raise InputError(file, f"line {line}", f"{column} is {text}: must be finite")
    return value


def time_ns(file: Path, line: int, text: str) -> float:
    """A positive time, from microseconds to nanoseconds."""
    value = number(file, line, TIME_COLUMN, text)
    if value <= 0:
        raise InputError(file, f"line {line}", f"{TIME_COLUMN} is {text}: must be above 0")
    return value * NS_PER_US


def refuse_repeats(rows: Rows, columns: Sequence[str]) -> None:
    """Raise for the first row whose key another row has already."""
    _, first, inverse = np.unique(rows.keys, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.reshape(-1)] != np.arange(len(rows.keys)))
    if again.size:
        row = int(again[0])
        key = ", ".join(f"{c}={k}" for c, k in zip(columns, rows.keys[row].tolist(), strict=True))
        line, other = sorted((int(rows.lines[row]), int(rows.lines[first[inverse.reshape(-1)[row]]])))[::-1]
        raise InputError(rows.file, f"line {line}", f"repeats {key} of line {other}")


def _refuse_falls(rows: Rows, what: str) -> None:
    highest = np.maximum.accumulate(rows.ns)
    wrong = np.flatnonzero(highest > IMPOSSIBLE_FALL * rows.ns)
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            rows.file,
            f"line {int(rows.lines[row])}",
            f"{what.format(int(rows.keys[row, 0]))} takes {rows.ns[row] / NS_PER_US:g} us, but "
            f"{highest[row] / NS_PER_US:g} us with fewer: cannot be",
        )


def _records(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            at = _positions(file, header, columns)
            empty = True
            for row in reader:
                if not row:
                    continue
                empty = False
                if len(row) != len(header):
                    message = f"{len(row)} cells instead of {len(header)}: {row}"
                    raise InputError(file, f"line {reader.line_num}", message)
                yield reader.line_num, [row[i] for i in at]
    except FileNotFoundError:
        raise InputError(file, "", "no such file; a bundle needs it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None
    if empty:
        raise InputError(file, "", "has no rows")


def _positions(file: Path, header: list[str], columns: Sequence[str]) -> list[int]:
    if not header:
        raise InputError(file, "", "is empty")
    missing = [name for name in columns if name not in header]
    if TIME_COLUMN in missing:
        other = next((name for name in header if name.startswith(("time", "latency"))), None)
        hint = f"; times must be in microseconds, not {other}" if other else ""
        raise InputError(file, "line 1", f"no column {TIME_COLUMN}{hint}")
    if missing:
        raise InputError(file, "line 1", f"no column {missing[0]}; columns are {','.join(header)}")
    return [header.index(name) for name in columns]

"""Read a CSV table of measurements: columns by name, every row checked, times to nanoseconds.

Columns that are not asked for are ignored. What cannot have been measured (not a number, not above zero, twice
under one key, impossibly less time for more work or impossibly more) is an error that names the file, the line
and the reason.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IMPOSSIBLE_FALL = 4.0
"""More work may measure a little faster (another kernel, noise: up to 2.5 times), never this much."""
NOISY_FALL = 8.0
"""The same of the published v1 tables, where single rows fall to a fifth."""
IMPOSSIBLE_LEAP = 30.0
"""Time may grow with the square of the work, and a step of noise on top, never this many times more."""


@dataclass(frozen=True)
class Unit:
    """Unit of a file's times."""

    name: str
    plural: str
    ns: float
    """Nanoseconds of one."""

    def text(self, ns: float) -> str:
        """A time in ns as the file shows it."""
        return f"{ns / self.ns:g} {self.name}"


NANOSECONDS = Unit("ns", "nanoseconds", 1.0)
MICROSECONDS = Unit("us", "microseconds", 1e3)
MILLISECONDS = Unit("ms", "milliseconds", 1e6)


@dataclass(frozen=True)
class Rows:
    """Rows of one file: integer keys ``[rows, key columns]``, times in ns, and where each row was."""

    file: Path
    keys: Ints
    ns: Floats
    lines: Ints
    unit: Unit = MICROSECONDS

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        """Some of the rows, in the order asked for."""
        return Rows(self.file, self.keys[rows], self.ns[rows], self.lines[rows], self.unit)

    def by_count(self) -> dict[int, float]:
        """Times by the first key."""
        return dict(zip(self.keys[:, 0].tolist(), self.ns.tolist(), strict=True))

    def error(self, row: int, message: str) -> InputError:
        """What is wrong with a row."""
        return InputError(self.file, f"line {int(self.lines[row])}", message)


class Table:
    """Cells of a CSV file by column name."""

    def __init__(self, file: Path, header: list[str], lines: list[int], rows: list[list[str]]) -> None:
        self.file = file
        self.header = header
        self.lines = np.array(lines, dtype=np.int64)
        self._rows = rows

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        cells = zip(*self._rows, strict=True)
        return {name: list(column) for name, column in zip(self.header, cells, strict=True)}

    def texts(self, column: str) -> list[str]:
        """Cells of ``column``, one a row."""
        return self._columns[column]

    def take(self, rows: NDArray[np.bool_]) -> Table:
        """The rows for which ``rows`` is true."""
        where = np.flatnonzero(rows).tolist()
        return Table(self.file, self.header, self.lines[where].tolist(), [self._rows[i] for i in where])

    def error(self, row: int, message: str) -> InputError:
        """What is wrong with a row."""
        return InputError(self.file, f"line {int(self.lines[row])}", message)

    def numbers(self, column: str) -> Floats:
        """A column of finite numbers."""
        texts = self.texts(column)
        try:
            values = np.array(texts, dtype=np.float64)
        except ValueError:
            row = next(i for i, text in enumerate(texts) if not _is_number(text))
            raise self.error(row, f"{column} is {texts[row]!r}: not a number") from None
        self._refuse(~np.isfinite(values), column, "must be finite")
        return values

    def whole(self, column: str, at_least: int = 0) -> Ints:
        """A column of whole numbers of at least ``at_least``; ``16.0`` counts as one."""
        values = self.numbers(column)
        wrong = (values != np.floor(values)) | (values < at_least)
        self._refuse(wrong, column, f"must be a whole number >= {at_least}")
        return values.astype(np.int64)

    def times_ns(self, column: str, unit: Unit) -> Floats:
        """A column of positive times in ``unit``, as nanoseconds."""
        values = self.numbers(column)
        self._refuse(values <= 0, column, "must be above 0")
        return values * unit.ns

    def require(self, column: str, value: int, why: str = "") -> None:
        """Raise for the first row whose ``column`` is not ``value``."""
        values = self.whole(column)
        wrong = np.flatnonzero(values != value)
        if wrong.size:
            row = int(wrong[0])
            raise self.error(row, f"{column} is {values[row]}, not {value}{why}")

    def _refuse(self, wrong: NDArray[np.bool_], column: str, must: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise self.error(row, f"{column} is {self.texts(column)[row]}: {must}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_table(file: Path, columns: Sequence[str], times: tuple[str, Unit] | None = None) -> Table:
    """Read ``file``; it must have rows and all of ``columns``, and the column of ``times`` in that unit."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            _check_header(file, header, columns, times)
            lines: list[int] = []
            rows: list[list[str]] = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    message = f"{len(row)} cells instead of {len(header)}: {row}"
                    raise InputError(file, f"line {reader.line_num}", message)
                lines.append(reader.line_num)
                rows.append(row)
    except FileNotFoundError:
        raise InputError(file, "", "no such file; the tables beside it need it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None
    if not rows:
        raise InputError(file, "", "has no rows")
    return Table(file, header, lines, rows)


def _check_header(
    file: Path, header: list[str], columns: Sequence[str], times: tuple[str, Unit] | None
) -> None:
    if not header:
        raise InputError(file, "", "is empty")
    if times and times[0] not in header:
        other = next((name for name in header if name.startswith(("time", "latency"))), None)
        hint = f"; times must be in {times[1].plural}, not {other}" if other else ""
        raise InputError(file, "line 1", f"no column {times[0]}{hint}")
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(file, "line 1", f"no column {missing[0]}; columns are {','.join(header)}")
    twice = [name for name in columns if header.count(name) > 1]
    if twice:
        raise InputError(file, "line 1", f"the column {twice[0]} is there twice")


def read_key_rows(
    file: Path, columns: Sequence[str], times: tuple[str, Unit], at_least: Sequence[int] = ()
) -> Rows:
    """Rows of ``{columns},{times}`` with whole keys (by default not below 0), each key once."""
    table = read_table(file, columns, times)
    least = at_least or [0] * len(columns)
    keys = np.stack([table.whole(name, at) for name, at in zip(columns, least, strict=True)], axis=1)
    rows = Rows(file, keys, table.times_ns(*times), table.lines, times[1])
    refuse_repeats(rows, columns)
    return rows


def layer_rows(
    table: Table, names: str, count: str, times: tuple[str, Unit], fall: float = IMPOSSIBLE_FALL
) -> dict[str, Rows]:
    """Rows of each layer of the column ``names``, sorted by ``count`` (tokens or sequences), as ``keys[:, 0]``."""
    layers = np.array([name.strip() for name in table.texts(names)])
    keys, ns = table.whole(count, at_least=1)[:, None], table.times_ns(*times)
    everything = Rows(table.file, keys, ns, table.lines, times[1])
    found: dict[str, Rows] = {}
    for name in dict.fromkeys(layers.tolist()):
        mine = np.flatnonzero(layers == name)
        rows = everything.take(mine[np.argsort(keys[mine, 0], kind="stable")])
        refuse_repeats(rows, (count,))
        refuse_cliffs(rows, f"{name} with {count} = {{}}", fall)
        found[name] = rows
    return found


def refuse_repeats(rows: Rows, columns: Sequence[str]) -> None:
    """Raise for the first row whose key another row has already."""
    for row, other in repeats(rows.keys):
        key = ", ".join(f"{c}={k}" for c, k in zip(columns, rows.keys[row].tolist(), strict=True))
        first, second = sorted((row, other), key=lambda one: int(rows.lines[one]))
        raise rows.error(second, f"repeats {key} of line {int(rows.lines[first])}")


def repeats(keys: Ints) -> Iterator[tuple[int, int]]:
    """(row, first row with its key) of every row whose key an earlier row has."""
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first_of = first[inverse.reshape(-1)]
    for row in np.flatnonzero(first_of != np.arange(len(keys))).tolist():
        yield row, int(first_of[row])


def refuse_cliffs(rows: Rows, what: str, fall: float = IMPOSSIBLE_FALL) -> None:
    """Raise where sorted rows of one key take impossibly less, or more, time than those with less work."""
    n, ns = rows.keys[:, 0], rows.ns
    highest = np.maximum.accumulate(ns)
    growth = (n[1:] / n[:-1]) ** 2
    leaps = np.r_[False, ns[1:] > IMPOSSIBLE_LEAP * growth * ns[:-1]]
    wrong = np.flatnonzero(leaps | (highest > fall * ns))
    if wrong.size:
        row = int(wrong[0])
        fewer = row - 1 if leaps[row] else int(np.argmax(ns[: row + 1]))
        raise rows.error(
            row,
            f"{what.format(int(n[row]))} takes {rows.unit.text(ns[row])}, but "
            f"{rows.unit.text(ns[fewer])} with {int(n[fewer])}: cannot be",
        )


def refuse_cliffs_along(
    rows: Rows, columns: Sequence[str], axes: Sequence[int], fall: float = IMPOSSIBLE_FALL
) -> None:
    """The same for rows of several keys, along each of ``axes`` with the other keys equal."""
    for axis in axes:
        others = [i for i in range(rows.keys.shape[1]) if i != axis]
        order = np.lexsort([rows.keys[:, i] for i in (axis, *others)])
        keys, ns = rows.keys[order], rows.ns[order]
        same = (keys[1:, others] == keys[:-1, others]).all(axis=1)
        growth = (keys[1:, axis] / np.maximum(keys[:-1, axis], 1)) ** 2
        falls = (keys[:-1, axis] > 0) & (ns[:-1] > fall * ns[1:])
        leaps = (keys[:-1, axis] > 0) & (ns[1:] > IMPOSSIBLE_LEAP * growth * ns[:-1])
        wrong = np.flatnonzero(same & (falls | leaps))
        if wrong.size:
            less, more = order[wrong[0]], order[wrong[0] + 1]
            text = rows.unit.text
            raise rows.error(
                int(more),
                f"takes {text(rows.ns[more])}, but {text(rows.ns[less])} with "
                f"{columns[axis]} {rows.keys[less, axis]} instead of {rows.keys[more, axis]}: cannot be",
            )

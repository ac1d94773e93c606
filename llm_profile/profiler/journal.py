"""The journal of a profile: one JSON line for each measured point, on disk before the next is measured.

The first line says what was measured on what. A line that an interrupt cut in half is dropped, so its point is
measured again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from astra_sim.input_error import InputError
from llm_profile.profiler.plan import Kind, Point
from llm_profile.profiler.samples import Stats, Times

Identity = Mapping[str, str | int]
"""What must be the same for two points to be in one table (device, model, number format, ...)."""


class Journal:
    """Measured points, kept in a file; ``shots`` counts how often each was measured.

    Opening a file that is there takes its points; one of another identity is refused. Use it as a context.
    """

    def __init__(self, file: Path, identity: Identity) -> None:
        self.file = file
        self.points: dict[Point, Times] = {}
        self.shots: Counter[Point] = Counter()
        lines = _whole_lines(file)
        if lines:
            _check_identity(file, lines[0], identity)
        for number, line in enumerate(lines[1:], start=2):
            point, times = _parse(file, number, line)
            self._keep(point, times)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = file.open("ab")
        except OSError as error:
            raise InputError(file, "", f"cannot be written: {error.strerror}") from None
        self._stream.truncate(sum(len(line) for line in lines))
        if not lines:
            self._append(json.dumps(dict(identity)))

    def add(self, point: Point, times: Times) -> None:
        """Keep the times of a point; on return they are on disk."""
        ns = {name: [round(value, 1) for value in asdict(stats).values()] for name, stats in times.items()}
        self._append(json.dumps({"kind": point.kind, "key": point.key, "ns": ns}))
        self._keep(point, times)

    def _keep(self, point: Point, times: Times) -> None:
        """Of a point measured again, each layer's faster time: a disturbance only ever adds to one."""
        before = self.points.get(point, times)
        both = {name: (before.get(name, stats), stats) for name, stats in times.items()}
        self.points[point] = {name: min(pair, key=lambda s: s.median) for name, pair in both.items()}
        self.shots[point] += 1

    def _append(self, line: str) -> None:
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _whole_lines(file: Path) -> list[bytes]:
    """Lines that were written to their end, line feeds included."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]


def _check_identity(file: Path, line: bytes, identity: Identity) -> None:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(file, "line 1", "not the journal of a profile; move it away or use --fresh")
    for field, value in identity.items():
        if found.get(field) != value:
            raise InputError(
                file,
                field,
                f"these points were measured with {found.get(field)!r}, not {value!r}; "
                "use --fresh to drop them, or another --output",
            )


def _parse(file: Path, number: int, line: bytes) -> tuple[Point, Times]:
    try:
        record = json.loads(line)
        point = Point(Kind(record["kind"]), tuple(int(part) for part in record["key"]))
        return point, {name: Stats(*map(float, ns)) for name, ns in record["ns"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(file, f"line {number}", "not a measured point; use --fresh to start anew") from None

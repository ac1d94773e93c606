"""What all readers share: looking at the head of a file, and taking fields out of JSON with good errors."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError
from inference_serving.validation.run import NS_PER_S, Run

_LARGEST_S = 4e9  # so that ns stay below 2**63


@dataclass(frozen=True)
class Head:
    """The first line of a file, and the object that it or the whole file holds if it is JSON."""

    line: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Reader:
    """One format: its name, what it is for, whether a head is one of its files, and how to read one."""

    name: str
    what: str
    recognises: Callable[[Head], bool]
    read: Callable[[Path], Run]


def head_of(file: Path) -> Head:
    """Look at the start of a file (of a ``.json`` that is written over several lines, at all of it)."""
    lines = text_lines(file)
    _, line = next(lines, (0, ""))
    record = _json_or_none(line)
    if record is None and line.lstrip().startswith("{"):
        record = _json_or_none(line + "".join(text for _, text in lines))
    return Head(line.strip(), record if isinstance(record, dict) else {})


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every line that is not blank; ``.gz`` files are unpacked."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.isspace():
                    yield number, line
    except FileNotFoundError:
        raise InputError(file, "", "no such file") from None
    except UnicodeDecodeError:
        raise InputError(file, "", "not a UTF-8 text file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None


def records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``line N`` and the JSON object of every line."""
    for number, line in text_lines(file):
        record = _json_or_none(line)
        if not isinstance(record, dict):
            raise InputError(file, f"line {number}", "must be a JSON object")
        yield f"line {number}", record


@dataclass(frozen=True)
class Fields:
    """Typed access to one JSON object; errors name the file, the place and the field."""

    file: Path
    where: str
    record: Mapping[str, Any]

    def error(self, field: str, message: str) -> InputError:
        """An error about ``field``."""
        return InputError(self.file, f"{self.where}: {field}" if self.where else field, message)

    def number(self, field: str) -> float:
        """A finite number."""
        if field not in self.record:
            raise self.error(field, "this field is required")
        value = self.record[field]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(field, f"{value!r}: must be a number")
        return float(value)

    def count(self, field: str, least: int = 0) -> int:
        """An integer of at least ``least``."""
        value = self.number(field)
        if not value.is_integer() or value < least:
            raise self.error(field, f"{value:g}: must be an integer of at least {least}")
        return int(value)

    def seconds_as_ns(self, field: str) -> int:
        """A time in seconds, at least 0, as ns."""
        return self.as_ns(field, self.number(field))

    def as_ns(self, field: str, seconds: Any) -> int:
        """Check seconds that came from ``field`` and turn them into ns."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise self.error(field, f"{seconds!r}: must be a number of seconds")
        if not 0 <= seconds <= _LARGEST_S:
            raise self.error(field, f"{seconds!r}: must be between 0 and {_LARGEST_S:g} seconds")
        return round(seconds * NS_PER_S)

    def array(self, field: str, length: int | None = None) -> list[Any]:
        """A list, of ``length`` entries if that is given."""
        value = self.record.get(field)
        if not isinstance(value, list):
            raise self.error(
                field, "this field is required" if value is None else f"{value!r}: must be a list"
            )
        if length is not None and len(value) != length:
            raise self.error(field, f"has {len(value)} entries, but there are {length} requests")
        return value


def stated_blocks(settings: Mapping[str, Any]) -> int | None:
    """KV blocks that the settings of a run give, under vLLM's names; None if they do not."""
    for name in ("num_gpu_blocks_override", "num_gpu_blocks", "kv_blocks"):
        text = str(settings.get(name, ""))
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return None

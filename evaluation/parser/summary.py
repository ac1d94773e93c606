"""Reading one number of a summary that was written with ``--summary-json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError, read_json_object


def read_summary(file: Path) -> Mapping[str, Any]:
    """The summary; raises InputError if it is none."""
    return read_json_object(file)


def number(file: Path, summary: Mapping[str, Any], *path: str) -> float:
    """The number at ``path``; raises InputError naming it if there is none."""
    found: Any = summary
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise InputError(file, ".".join(path), "must be a number; give a file written with --summary-json")
    return float(found)

"""Reading one number of a summary: written with ``--summary-json``, or made of what a run has printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError, read_json_object
from evaluation.parser.log import log_summary, read_log


def is_log(file: Path) -> bool:
    """Whether it is what a run has printed, told by its name: ``.log`` or ``.txt``."""
    return file.suffix in {".log", ".txt"}


def read_summary(file: Path) -> Mapping[str, Any]:
    """The summary; None stands for what a log does not tell. Raises InputError if it is none."""
    return log_summary(read_log(file)) if is_log(file) else read_json_object(file)


def number(file: Path, summary: Mapping[str, Any], *path: str) -> float:
    """The number at ``path``; raises InputError naming it if there is none."""
    found: Any = summary
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise InputError(
            file,
            ".".join(path),
            "must be a number; give a file written with --summary-json, or the .log of a run",
        )
    return float(found)

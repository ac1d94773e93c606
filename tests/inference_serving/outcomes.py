"""What a run of the command leaves behind, and what it must leave behind when its input is wrong."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """All that a run of the command leaves behind."""

    code: int
    stderr: str
    stdout: str
    new_files: list[str]


def refused(message: str) -> Outcome:
    """One line on stderr, exit code 2, and nothing written."""
    return Outcome(2, f"error: {message}\n", "", [])

"""Output files: written beside their place and renamed into it, so that nobody sees half a file."""

from __future__ import annotations

import os
from pathlib import Path

from astra_sim.input_error import InputError


def write_whole(file: Path, text: str) -> None:
    """Write ``text`` to ``file`` at once, making its folder if there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(file: Path, flag: str) -> None:
    """Raise InputError, before any work is done, if ``file`` will not be writable."""
    if file.is_dir():
        raise InputError(file, flag, "is a folder; give a file name")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(file, flag, f"cannot be written: no permission in {folder}, or it is not a folder")

"""Output files: written beside their place and renamed into it, so that nobody sees half a file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from astra_sim.input_error import InputError


def write_whole(file: Path, text: str | Iterable[str]) -> None:
    """Write ``text``, or one piece of it after the other, to ``file`` at once, making its folder if there is none.

    A link is followed; a device or a pipe, which cannot be replaced, is written to.
    """
    pieces = [text] if isinstance(text, str) else text
    if file.exists() and not file.is_file():
        _write(file, pieces)
        return
    target = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, pieces)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: Path, pieces: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(pieces)


def check_writable(file: Path, flag: str) -> None:
    """Raise InputError, before any work is done, if ``file`` will not be writable."""
    try:
        if file.is_dir():
            raise InputError(file, flag, "is a folder; give a file name")
        check_folder(file.parent, file, flag)
    except OSError as error:  # a name that is too long, no permission to look
        raise InputError(file, flag, f"cannot be written: {error.strerror}") from None


def check_folder(folder: Path, file: Path, flag: str) -> None:
    """Raise InputError if nothing can be written in ``folder``, which need not be there yet."""
    folder = folder.resolve()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(file, flag, f"cannot be written: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(file, flag, f"cannot be written: no permission in {nearest}")

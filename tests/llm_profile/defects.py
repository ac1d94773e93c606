"""Edits that break a table, and what opening it then says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.model_config import ModelConfig

Edit = Callable[[list[str]], list[str]]


def line(number: int, text: str) -> Edit:
    """Replace a line (from 1); beyond the last one, append it."""
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


def added(text: str) -> Edit:
    return lambda lines: [*lines, text]


def scaled(factor: float, column: int) -> Edit:
    """All times in another unit."""

    def edit(lines: list[str]) -> list[str]:
        rows = [row.split(",") for row in lines[1:]]
        for row in rows:
            at = column if row[column] else column + 1
            row[at] = repr(float(row[at]) * factor)
        return [lines[0], *(",".join(row) for row in rows)]

    return edit


def replaced(old: str, new: str) -> Edit:
    return lambda lines: [text.replace(old, new) for text in lines]


def without(part: str) -> Edit:
    return lambda lines: [text for text in lines if part not in text]


def only_header(lines: list[str]) -> list[str]:
    return lines[:1]


def nothing(_: list[str]) -> list[str]:
    return []


def refusal(model: ModelConfig, folder: Path, file: Path, edit: Edit) -> str:
    """What opening the tables says, whatever the source, after ``edit`` of the lines of ``file``."""
    file.write_text("".join(text + "\n" for text in edit(file.read_text().splitlines())))
    with pytest.raises(InputError) as caught:
        open_latency_model(LatencyQuery("CARD", model, 1, profile_dir=folder))
    assert caught.value.file == str(file)
    return str(caught.value).removeprefix(f"{file}: ")

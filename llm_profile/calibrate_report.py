"""Errors of descriptions as a table, beside the goals that they are held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from astra_sim.input_error import InputError
from llm_profile.calibrate_check import Errors, error_table
from llm_profile.calibrate_runs import FIT_RUN, run_errors
from llm_profile.hardware import Hardware, find_hardware, known_hardware, load_hardware
from llm_profile.profiles import read_profiles

GOALS = {
    "block": (0.04, 0.12),
    "prefill": (0.08, 0.2),
    "prompt": (0.08, 0.2),
    "decode": (0.05, 0.15),
    "iteration": (0.08, math.inf),
}
"""Largest median and 90th percentile by kind of measurement; other kinds have no goal."""


def table_text(rows: Errors) -> str:
    """Errors as a Markdown table with goals, and a line that says how many are met; names end in their kind."""
    lines = ["| table | median error | p90 error | goal | |", "|---|---|---|---|---|"]
    missed = []
    for name, error in rows.items():
        goal = GOALS.get(name.rsplit(" ", 1)[1])
        met = goal is None or all(value <= most for value, most in zip(error, goal, strict=True))
        said = " |" if goal is None else f" {_percents(goal)} | {'met' if met else 'missed'}"
        lines.append(f"| {name} | {error[0]:.1%} | {error[1]:.1%} |{said} |")
        missed += [] if met else [name]
    count = sum(name.rsplit(" ", 1)[1] in GOALS for name in rows)
    lines += [
        "",
        f"{count - len(missed)} of {count} goals met" + "".join(f"\nmissed: {one}" for one in missed),
    ]
    return "\n".join(lines)


def _percents(goal: tuple[float, float]) -> str:
    return ", ".join(f"{value:.0%}" for value in goal if value < math.inf)


def named(card: Hardware, errors: Errors) -> Errors:
    """Errors with the card in front of each name."""
    return {f"{card.name}/{name}": error for name, error in errors.items()}


def check(folders: Sequence[Path], names: Sequence[str]) -> Errors:
    """Errors of the descriptions ``names`` (none: of all that there is data for) against the data in ``folders``."""
    rows: Errors = {}
    for folder in folders:
        cards = [described(name) for name in names] or list(_with_data(folder))
        for card in cards:
            if (folder / FIT_RUN).is_file():
                rows |= named(card, run_errors(card, folder))
            elif (folder / card.name).is_dir() or len(folders) == 1:
                rows |= named(card, error_table(card, read_profiles(folder, card.name)))
    if not rows:
        raise InputError("", "--profiles", f"no tables of a described card in {', '.join(map(str, folders))}")
    return rows


def described(name: str) -> Hardware:
    """The description of a card; InputError if there is none."""
    file = find_hardware(name)
    if file is None:
        names = ", ".join(known_hardware())
        raise InputError("", "--hardware", f"{name!r} has no description; described: {names}")
    return load_hardware(file)


def _with_data(folder: Path) -> Iterator[Hardware]:
    for card in map(described, known_hardware()):
        if (folder / FIT_RUN).is_file():
            if card.fit is not None and FIT_RUN in card.fit.data:
                yield card
        elif (folder / card.name).is_dir():
            yield card

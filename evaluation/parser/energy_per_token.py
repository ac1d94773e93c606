"""Energy per generated token."""

from __future__ import annotations

from pathlib import Path

from evaluation.parser.summary import number, read_summary
from evaluation.rows import Row


def energy_per_token_rows(scenario: str, summary_file: Path) -> list[Row]:
    """Energy of all nodes over all generated tokens, in J."""
    energy_j = number(summary_file, read_summary(summary_file), "power", "energy_per_generated_token_j")
    return [Row(scenario, "energy_per_token_j", energy_j)]

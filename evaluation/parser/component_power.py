"""Energy of each part of the nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.parser.summary import read_summary
from evaluation.rows import Row

PREFIX, SUFFIX = "component_", "_energy_kj"
COMPONENTS = ("base_node", "npu", "cpu", "dram", "link", "nic", "storage")
"""Their usual order; parts of other names come after these."""


def component_rows(scenario: str, summary_file: Path) -> list[Row]:
    """A row ``component_PART_energy_kj`` for each part, summed over all nodes; raises InputError without power."""
    energies_j: Counter[str] = Counter()
    try:
        for node in read_summary(summary_file)["power"]["nodes"]:
            energies_j.update(node["energy_by_component_j"])
    except (KeyError, TypeError):
        raise InputError(summary_file, "power.nodes", "is missing: the run had no power model") from None
    names = [one for one in COMPONENTS if one in energies_j]
    names += sorted(set(energies_j) - set(names))
    return [Row(scenario, f"{PREFIX}{name}{SUFFIX}", energies_j[name] / 1e3) for name in names]

"""comm_group.json: named groups of NPUs; the listed order is the ring order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from astra_sim.input_error import InputError, read_json_object

CommGroups = dict[str, tuple[int, ...]]


def read_comm_groups(path: str | Path) -> CommGroups:
    """Read a comm_group.json: ``{"1": [0, 1], "2": [2, 3]}``; ids are integers above 0."""
    groups: CommGroups = {}
    for name, members in read_json_object(path).items():
        if not name.isdecimal() or int(name) == 0:
            raise InputError(path, name, "a group id must be an integer above 0")
        if not isinstance(members, list) or not members:
            raise InputError(path, name, "a group must be a list of NPU numbers with at least one member")
        for index, npu in enumerate(members):
            if not isinstance(npu, int) or isinstance(npu, bool) or npu < 0:
                raise InputError(path, f"{name}[{index}]", f"{npu!r}: must be an NPU number, 0 or above")
        if len(set(members)) != len(members):
            raise InputError(path, name, "an NPU is listed twice")
        groups[str(int(name))] = tuple(members)
    return groups


def write_comm_groups(path: str | Path, groups: Mapping[str, Sequence[int]]) -> None:
    """Write a comm_group.json."""
    data = {name: list(members) for name, members in groups.items()}
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

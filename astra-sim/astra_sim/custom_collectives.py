"""Custom collectives: an execution trace per rank says what each NPU of a collective sends and receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from astra_sim.et_graphs import read_graphs, trace_path
from astra_sim.graph import CollectiveKind, Graph
from astra_sim.input_error import InputError
from astra_sim.system_config import SystemConfig

CONFIGURABLE = (
    CollectiveKind.ALL_REDUCE,
    CollectiveKind.ALL_GATHER,
    CollectiveKind.REDUCE_SCATTER,
    CollectiveKind.ALL_TO_ALL,
)
"""The collectives whose implementation system.json names, in the engine's order."""


@dataclass(frozen=True, slots=True)
class CustomCollective:
    """One custom collective: a graph per rank (peers are ranks), durations in ns and sizes in bytes by slot."""

    graphs: Sequence[Graph]
    durations_ns: Sequence[int]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class CustomCollectives:
    """The custom collectives of a system, and which collective nodes run them (by index)."""

    collectives: tuple[CustomCollective, ...] = ()
    of_kind: Mapping[CollectiveKind, int] = field(default_factory=dict)
    of_node: Mapping[int, int] = field(default_factory=dict)
    """By node id; comes before ``of_kind``."""


def read_custom_collectives(
    system: SystemConfig, system_file: str | Path, npu_count: int
) -> CustomCollectives:
    """Read the traces that a system.json names, PREFIX.0.et and on, at most ``npu_count`` ranks.

    A relative prefix is looked for in the current folder, then beside ``system_file``. Raises InputError for a
    prefix without traces and for broken files.
    """
    index_of: dict[str, int] = {}
    folder = Path(system_file).parent
    lists = (
        system.all_reduce_custom,
        system.all_gather_custom,
        system.reduce_scatter_custom,
        system.all_to_all_custom,
    )
    of_kind = {
        kind: index_of.setdefault(prefixes[0], len(index_of))
        for kind, prefixes in zip(CONFIGURABLE, lists, strict=True)
        if prefixes
    }
    of_node = {
        node: index_of.setdefault(prefix, len(index_of)) for node, prefix in _per_node(system, folder).items()
    }
    collectives = tuple(_read(prefix, folder, Path(system_file), npu_count) for prefix in index_of)
    return CustomCollectives(collectives, of_kind, of_node)


def _read(prefix: str, folder: Path, system_file: Path, npu_count: int) -> CustomCollective:
    path = _found(prefix, ".0.et", folder)
    ranks = 0
    while ranks < npu_count and trace_path(path, ranks).exists():
        ranks += 1
    if ranks == 0:
        raise InputError(system_file, "custom collective", f"{prefix}: there is no file {prefix}.0.et")
    graphs, durations_ns, sizes = read_graphs(path, ranks)
    return CustomCollective(graphs, durations_ns.tolist(), sizes.tolist())


def _per_node(system: SystemConfig, folder: Path) -> dict[int, str]:
    if system.per_node_custom is None:
        return {}
    file = _found(system.per_node_custom, "", folder)
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(file, "", "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(file, "", f"not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise InputError(file, "", "must be a mapping of node id to the prefix of trace files")
    for node, prefix in entries.items():
        if type(node) is not int or not isinstance(prefix, str):
            raise InputError(file, str(node), f"{prefix!r}: must be a node id and the prefix of trace files")
    return entries


def _found(name: str, suffix: str, folder: Path) -> Path:
    """A path as given if it exists from the current folder, else beside the system configuration."""
    here = Path(name)
    return here if Path(f"{name}{suffix}").exists() else folder / name

"""Between graphs with slots and Chakra trace files with numbers: PREFIX.{npu}.et, one file per NPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.comm_groups import CommGroups
from astra_sim.et import METADATA, Dialect, EtRecord, Value, read_et, write_et
from astra_sim.graph import CollectiveKind, Graph, Node, NodeKind
from astra_sim.input_error import InputError
from astra_sim.system_config import SystemConfig

_TENSOR_KINDS = (NodeKind.COMP, NodeKind.MEM_LOAD, NodeKind.MEM_STORE, NodeKind.INVALID)
_MEMORY_KINDS = (NodeKind.MEM_LOAD, NodeKind.MEM_STORE)
_MOST = 1 << 53
_OPS_PER_NS = 1000
_MEMORY_OF_TENSOR_LOC = {0: 0, 1: 0, 2: 0, 3: 1}


def roofline_of_durations(system: SystemConfig) -> SystemConfig:
    """The system under which stock ASTRA-Sim takes the exact durations of ``astra-sim`` dialect traces.

    ASTRA-Sim replays whole microseconds only, but its roofline cuts ``num_ops / peak`` to a whole ns: with a
    peak of 1 TFLOPS, 1000 operations a ns and half a ns more than wanted, the cut gives the duration.
    """
    return system.model_copy(update={"roofline_enabled": True, "peak_perf_tflops": 1.0})


def trace_path(prefix: str | Path, npu: int) -> Path:
    """Name of the trace file of an NPU."""
    return Path(f"{prefix}.{npu}.et")


def write_graphs(
    prefix: str | Path,
    graphs: Sequence[Graph],
    durations_ns: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    npus: Sequence[int] | None = None,
    npu_count: int | None = None,
    dialect: Dialect = "chakra",
) -> CommGroups:
    """Write one submission as trace files; returns the groups that its collectives name.

    ``npus`` are the NPU numbers of the positions (default 0, 1, ...). With ``npu_count`` every other NPU of
    the system gets an empty trace, as ASTRA-Sim wants it. Pass the groups to ``write_comm_groups``.
    """
    numbers = tuple(range(len(graphs))) if npus is None else tuple(npus)
    writer = _Writer(numbers, durations_ns.tolist(), sizes.tolist(), as_operations=dialect == "astra-sim")
    for npu, graph in zip(numbers, graphs, strict=True):
        write_et(trace_path(prefix, npu), [writer.record(node, npu) for node in graph.nodes], dialect)
    for npu in set(range(npu_count or 0)) - set(numbers):
        write_et(trace_path(prefix, npu), [], dialect)
    return {name: group for group, name in writer.groups.items()}


def read_graphs(
    prefix: str | Path,
    npu_count: int,
    groups: Mapping[str, Sequence[int]] | None = None,
    dialect: Dialect = "chakra",
) -> tuple[list[Graph], NDArray[np.int64], NDArray[np.int64]]:
    """Read the trace files of NPUs 0 to ``npu_count - 1``: graphs, durations in ns and sizes for an engine.

    Equal numbers share a slot. ``groups`` are those of comm_group.json.
    """
    reader = _Reader(npu_count, groups or {}, dialect)
    graphs = [reader.graph(trace_path(prefix, npu), npu) for npu in range(npu_count)]
    return graphs, reader.durations.array(), reader.sizes.array()


class _Writer:
    """Fills the slots of nodes with their numbers, and numbers the groups as they appear."""

    def __init__(
        self, npus: tuple[int, ...], durations_ns: list[int], sizes: list[int], *, as_operations: bool = False
    ) -> None:
        self._as_operations = as_operations
        self.groups: dict[tuple[int, ...], str] = {}
        self._npus = npus
        self._durations_ns = durations_ns
        self._sizes = sizes

    def record(self, node: Node, npu: int) -> EtRecord:
        return EtRecord(
            node_id=node.node_id,
            node_type=int(node.kind),
            name=node.name,
            data_deps=node.data_deps,
            ctrl_deps=node.ctrl_deps,
            duration_ns=None if node.duration_slot is None else self._durations_ns[node.duration_slot],
            attributes=self._attributes(node, npu),
        )

    def _attributes(self, node: Node, npu: int) -> dict[str, Value]:
        attributes: dict[str, Value] = {"is_cpu_op": node.is_cpu_op}
        if node.size_slot is not None:
            name = "tensor_size" if node.kind in _TENSOR_KINDS else "comm_size"
            attributes[name] = self._sizes[node.size_slot]
        if node.ops_slot is not None:
            attributes["num_ops"] = self._sizes[node.ops_slot]
        elif self._as_operations and node.kind == NodeKind.COMP and node.duration_slot is not None:
            duration_ns = max(self._durations_ns[node.duration_slot], 1)
            attributes |= {"num_ops": duration_ns * _OPS_PER_NS + _OPS_PER_NS // 2, "tensor_size": 1}
        if node.collective is not None:
            attributes["comm_type"] = int(node.collective)
        if node.group:
            attributes["pg_name"] = self._group_name(node.group)
        if node.involved_dims:
            attributes["involved_dim"] = node.involved_dims
        if node.peer is not None:
            here, there = ("comm_src", "comm_dst") if node.kind == NodeKind.SEND else ("comm_dst", "comm_src")
            attributes |= {here: npu, there: self._npus[node.peer], "comm_tag": node.tag}
        if node.priority:
            attributes["comm_priority"] = node.priority
        if node.copy_engine:
            attributes["copy_engine"] = True
        if node.memory:
            attributes["memory"] = node.memory
        if node.pim_channel is not None:
            attributes["pim_channel"] = node.pim_channel
        if node.part:
            attributes["part"] = node.part
        return attributes

    def _group_name(self, positions: tuple[int, ...]) -> str:
        members = tuple(self._npus[position] for position in positions)
        return self.groups.setdefault(members, str(len(self.groups) + 1))


class _Slots:
    """Numbers in order of appearance, each once."""

    def __init__(self) -> None:
        self._slot_of: dict[int, int] = {}

    def slot(self, number: int) -> int:
        return self._slot_of.setdefault(number, len(self._slot_of))

    def array(self) -> NDArray[np.int64]:
        return np.array(list(self._slot_of), dtype=np.int64)


class _Reader:
    """Turns trace files into graphs whose numbers are gathered in slots."""

    def __init__(self, npu_count: int, groups: Mapping[str, Sequence[int]], dialect: Dialect) -> None:
        self.durations = _Slots()
        self.sizes = _Slots()
        self._npu_count = npu_count
        self._groups = groups
        self._dialect = dialect

    def graph(self, path: Path, npu: int) -> Graph:
        return Graph(tuple(self._node(_Fields(r, path), npu) for r in read_et(path, self._dialect)))

    def _node(self, fields: _Fields, npu: int) -> Node:
        record = fields.record
        kind = fields.kind()
        duration_ns = fields.duration_ns()
        size = fields.integer("tensor_size" if kind in _TENSOR_KINDS else "comm_size")
        operations = fields.integer("num_ops")
        peer, tag = self._peer(fields, kind, npu)
        memory = fields.integer("memory")
        if memory is None and self._dialect == "kaist" and kind in _MEMORY_KINDS:
            memory = fields.memory_of_tensor_loc()
        return Node(
            node_id=record.node_id,
            kind=kind,
            name=record.name,
            data_deps=record.data_deps,
            ctrl_deps=record.ctrl_deps,
            duration_slot=None if duration_ns is None else self.durations.slot(duration_ns),
            size_slot=None if size is None else self.sizes.slot(size),
            ops_slot=None if operations is None else self.sizes.slot(operations),
            collective=fields.collective() if kind == NodeKind.COLL else None,
            group=self._group(fields) if kind == NodeKind.COLL else (),
            involved_dims=fields.booleans("involved_dim") if kind == NodeKind.COLL else (),
            peer=peer,
            tag=tag,
            priority=fields.integer("comm_priority") or 0,
            is_cpu_op=bool(fields.integer("is_cpu_op") or 0),
            copy_engine=bool(fields.integer("copy_engine") or 0),
            memory=memory or 0,
            pim_channel=fields.integer("pim_channel"),
            part=fields.integer("part") or 0,
        )

    def _peer(self, fields: _Fields, kind: NodeKind, npu: int) -> tuple[int | None, int]:
        if kind not in (NodeKind.SEND, NodeKind.RECV):
            return None, 0
        here, there = ("comm_src", "comm_dst") if kind == NodeKind.SEND else ("comm_dst", "comm_src")
        own = fields.integer(here)
        if own not in (None, npu):
            raise fields.error(f"{here} is {own}, but the trace is that of NPU {npu}")
        peer = fields.required(there)
        if peer >= self._npu_count:
            raise fields.error(f"{there} is {peer}; the network has NPUs 0 to {self._npu_count - 1}")
        return peer, fields.required("comm_tag")

    def _group(self, fields: _Fields) -> tuple[int, ...]:
        name = fields.record.attributes.get("pg_name", "")
        if name in ("", "0"):
            return ()
        if not isinstance(name, str) or name not in self._groups:
            known = ", ".join(sorted(self._groups)) or "none"
            raise fields.error(f"pg_name {name!r} is not a communicator group; there are: {known}")
        return tuple(self._groups[name])


class _Fields:
    """The attributes of one record, checked for type and presence."""

    def __init__(self, record: EtRecord, path: Path) -> None:
        self.record = record
        self._path = path

    def error(self, message: str) -> InputError:
        name = f" ({self.record.name})" if self.record.name else ""
        return InputError(self._path, f"node {self.record.node_id}{name}", message)

    def kind(self) -> NodeKind:
        if self.record.node_type == METADATA:
            raise self.error(
                "METADATA nodes are not executed (ASTRA-Sim aborts on them); "
                "put groups into comm_group.json and drop them"
            )
        try:
            return NodeKind(self.record.node_type)
        except ValueError:
            raise self.error(f"node type {self.record.node_type} is not one of Chakra's") from None

    def collective(self) -> CollectiveKind:
        number = self.required("comm_type")
        try:
            return CollectiveKind(number)
        except ValueError:
            known = ", ".join(f"{kind.name} {int(kind)}" for kind in CollectiveKind)
            raise self.error(f"comm_type {number} is not supported; there are: {known}") from None

    def memory_of_tensor_loc(self) -> int:
        location = self.integer("tensor_loc") or 0
        if location not in _MEMORY_OF_TENSOR_LOC:
            raise self.error(f"tensor_loc {location} is not supported yet; use 2 (remote) or 3 (CXL)")
        return _MEMORY_OF_TENSOR_LOC[location]

    def integer(self, name: str) -> int | None:
        """Any integer or bool wire type, as ASTRA-Sim takes it; a float is an error."""
        value = self.record.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or value < 0:
            raise self.error(f"{name} must be an integer, 0 or above, not {value!r}")
        if value > _MOST:
            raise self.error(f"{name} is {value}; numbers above 2^53 are not simulated")
        return int(value)

    def duration_ns(self) -> int | None:
        """The node's duration."""
        value = self.record.duration_ns
        if value is not None and not 0 <= value <= _MOST:
            raise self.error(f"a duration of {value} ns; it must be from 0 to 2^53")
        return value

    def required(self, name: str) -> int:
        value = self.integer(name)
        if value is None:
            raise self.error(f"{name} is missing")
        return value

    def booleans(self, name: str) -> tuple[bool, ...]:
        value = self.record.attributes.get(name, ())
        if not isinstance(value, tuple):
            raise self.error(f"{name} must be a list of booleans, not {value!r}")
        return value

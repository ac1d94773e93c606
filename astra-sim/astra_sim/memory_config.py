"""memory_expansion.json: memories outside the NPUs, in ASTRA-Sim's form or the published fork's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from astra_sim.input_error import InputError, read_json_object, validated

MemoryType = Literal[
    "NO_MEMORY_EXPANSION", "PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"
]
_NAMES = ("remote_mem", "cxl_mem", "local_mem")
_POOL = "MEMORY_POOL"
_FLAT_NAMES = {"remote-mem-latency": "mem-latency", "remote-mem-bw": "mem-bw"}

_KEY_OF_FIELD = {
    "memory_type": "memory-type",
    "latency_ns": "mem-latency",
    "bandwidth_gbps": "mem-bw",
    "num_devices": "num-devices",
    "num_nodes": "num-nodes",
    "num_npus_per_node": "num-npus-per-node",
    "node_of_npu": "node-of-npu",
    "node_bandwidth_gbps": "node-mem-bw",
    "node_latency_ns": "node-mem-latency",
    "pim_channels": "pim-channels",
}


class MemoryConfig(BaseModel):
    """One memory: latency in ns, bandwidth in GB/s with 1 GB = 1e9 bytes.

    A PER_NODE memory belongs to nodes given by ``node_of_npu`` (one entry per NPU) or by
    ``num_npus_per_node``; with neither, all NPUs share one node. ``node_bandwidth_gbps`` and ``node_latency_ns``
    give each node a speed of its own. ``pim_channels`` of each node's memory (or of a pool's device) can compute.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_KEY_OF_FIELD.__getitem__,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    memory_type: MemoryType
    latency_ns: int = Field(default=0, ge=0, le=1 << 53)
    bandwidth_gbps: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    num_devices: int = Field(default=1, ge=1)
    num_nodes: int | None = Field(default=None, ge=1)
    num_npus_per_node: int | None = Field(default=None, ge=1)
    node_of_npu: tuple[Annotated[int, Field(ge=0, lt=1 << 16)], ...] | None = None
    node_bandwidth_gbps: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    node_latency_ns: tuple[Annotated[int, Field(ge=0, le=1 << 53)], ...] | None = None
    pim_channels: int | None = Field(default=None, ge=1, le=1 << 16)

    @model_validator(mode="after")
    def _one_mapping(self) -> Self:
        if self.node_of_npu is not None and self.num_npus_per_node is not None:
            raise ValueError("give either node-of-npu or num-npus-per-node, not both")
        if self.node_of_npu is not None and self.memory_type != "PER_NODE_MEMORY_EXPANSION":
            raise ValueError("node-of-npu is for PER_NODE_MEMORY_EXPANSION only")
        if (self.node_bandwidth_gbps or self.node_latency_ns) and self.node_of_npu is None:
            raise ValueError("node-mem-bw and node-mem-latency need node-of-npu")
        for speeds in (self.node_bandwidth_gbps, self.node_latency_ns):
            if speeds is not None and self.node_of_npu and len(speeds) <= max(self.node_of_npu):
                raise ValueError(
                    f"node-of-npu names node {max(self.node_of_npu)}, but {len(speeds)} speeds are given"
                )
        return self

    def node_speeds(self) -> list[tuple[int, float]]:
        """(latency in ns, GB/s) of each node; empty when all nodes have the same."""
        if self.node_bandwidth_gbps is None and self.node_latency_ns is None:
            return []
        nodes = max(self.node_of_npu or (0,)) + 1
        latencies = self.node_latency_ns or (self.latency_ns,) * nodes
        return list(zip(latencies, self.node_bandwidth_gbps or (self.bandwidth_gbps,) * nodes, strict=True))

    def nodes(self, npu_count: int) -> list[int]:
        """Node of each NPU; empty when all NPUs share one memory."""
        if self.memory_type != "PER_NODE_MEMORY_EXPANSION":
            return []
        if self.node_of_npu is not None:
            if len(self.node_of_npu) != npu_count:
                raise ValueError(
                    f"node-of-npu has {len(self.node_of_npu)} entries, the network has {npu_count} NPUs"
                )
            return list(self.node_of_npu)
        if self.num_npus_per_node is None:
            return []
        nodes = [npu // self.num_npus_per_node for npu in range(npu_count)]
        if self.num_nodes is not None and nodes[-1] >= self.num_nodes:
            raise ValueError(
                f"{self.num_nodes} nodes of {self.num_npus_per_node} NPUs do not hold {npu_count} NPUs"
            )
        return nodes


def read_memories(path: str | Path) -> list[MemoryConfig]:
    """Read a memory_expansion.json; the position in the list is the ``memory`` that nodes address.

    A pool of ``num-devices`` devices is as many memories, each with a queue of its own.
    """
    data = read_json_object(path)
    if "memory-type" in data:
        return _read_flat(data, path)
    if not data or any(key not in _NAMES for key in data):
        names = " and ".join(_NAMES)
        raise InputError(path, "memory-type", f"this field is required (or the objects {names})")
    memories = []
    for name in _NAMES:
        if name in data:
            memory = _read_named(data[name], name, path)
            devices = memory.num_devices if memory.memory_type == _POOL else 1
            single = memory.model_copy(update={"num_devices": 1}) if devices > 1 else memory
            memories += [single] * devices
        elif memories == [] and name == _NAMES[0]:
            memories.append(MemoryConfig(memory_type="NO_MEMORY_EXPANSION"))
    return memories


def write_memories(path: str | Path, memories: Sequence[MemoryConfig], *, stock: bool = False) -> None:
    """Write a memory_expansion.json in the published fork's form (none: ASTRA-Sim's NO_MEMORY_EXPANSION).

    ``stock``: in ASTRA-Sim's own form, which has one memory, whole numbers, and as many NPUs on every node.
    Raises ValueError for what the form cannot hold.
    """
    if stock and memories:
        Path(path).write_text(json.dumps(stock_memories(memories), indent=2) + "\n", encoding="utf-8")
        return
    data: dict[str, Any] = {"memory-type": "NO_MEMORY_EXPANSION"}
    if memories:
        data = {
            name: memory.model_dump(mode="json", exclude_none=True)
            for name, memory in _named(memories).items()
        }
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _named(memories: Sequence[MemoryConfig]) -> dict[str, MemoryConfig]:
    """Memories by their names in a file: the first, then a pool's equal devices as one, then one more."""
    first, *others = memories
    named = {_NAMES[0]: first}
    devices = [memory for memory in others if memory.memory_type == _POOL]
    if devices:
        named[_NAMES[1]] = devices[0].model_copy(update={"num_devices": len(devices)})
    rest = others[len(devices) :]
    if len(rest) > 1 or others[: len(devices)] != devices[:1] * len(devices):
        raise ValueError("the file format holds a memory, a pool of equal devices, and one more memory")
    if rest:
        named[_NAMES[2]] = rest[0]
    return named


def stock_memories(memories: Sequence[MemoryConfig]) -> dict[str, Any]:
    """Memories in ASTRA-Sim's own form; raises ValueError for what it cannot hold."""
    if len(memories) > 1:
        raise ValueError(f"ASTRA-Sim has one memory, not {len(memories)}")
    memory = memories[0]
    if memory.pim_channels:
        raise ValueError("ASTRA-Sim has no memory that computes (PIM channels)")
    if memory.node_speeds():
        raise ValueError("ASTRA-Sim has one speed for the memories of all nodes")
    data: dict[str, Any] = {
        "memory-type": memory.memory_type,
        "remote-mem-latency": memory.latency_ns,
        "remote-mem-bw": round(memory.bandwidth_gbps),
    }
    if memory.node_of_npu is not None:
        sizes = {memory.node_of_npu.count(node) for node in memory.node_of_npu}
        if len(sizes) > 1 or list(memory.node_of_npu) != sorted(memory.node_of_npu):
            raise ValueError("ASTRA-Sim needs nodes with equally many NPUs, numbered node after node")
        data |= {"num-nodes": max(memory.node_of_npu) + 1, "num-npus-per-node": sizes.pop()}
    return data


def _read_named(data: object, name: str, path: str | Path) -> MemoryConfig:
    """The published fork's form, whose latencies may have fractions, which are cut."""
    latency = data.get("mem-latency") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(latency, float) and math.isfinite(latency):
        data = data | {"mem-latency": int(latency)}
    try:
        return validated(MemoryConfig, data, path)
    except InputError as error:
        field = f"{name}.{error.field}" if error.field else name
        raise InputError(path, field, error.message) from error


def _read_flat(data: dict[str, Any], path: str | Path) -> list[MemoryConfig]:
    """ASTRA-Sim's own form: latency and bandwidth are unsigned integers, fractions are cut."""
    renamed: dict[str, Any] = {}
    for key, value in data.items():
        finite = isinstance(value, float) and math.isfinite(value)
        cut = int(value) if key in _FLAT_NAMES and finite else value
        renamed[_FLAT_NAMES.get(key, key)] = cut
    memory = validated(MemoryConfig, renamed, path)
    if memory.memory_type == "NO_MEMORY_EXPANSION":
        return []
    for key, name in _FLAT_NAMES.items():
        if name not in renamed:
            raise InputError(path, key, "this field is required")
    return [memory]

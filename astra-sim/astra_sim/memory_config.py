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
_NAMES = ("remote_mem", "cxl_mem")
_FLAT_NAMES = {"remote-mem-latency": "mem-latency", "remote-mem-bw": "mem-bw"}

_KEY_OF_FIELD = {
    "memory_type": "memory-type",
    "latency_ns": "mem-latency",
    "bandwidth_gbps": "mem-bw",
    "num_devices": "num-devices",
    "num_nodes": "num-nodes",
    "num_npus_per_node": "num-npus-per-node",
    "node_of_npu": "node-of-npu",
}


class MemoryConfig(BaseModel):
    """One memory: latency in ns, bandwidth in GB/s with 1 GB = 1e9 bytes.

    A PER_NODE memory belongs to nodes given by ``node_of_npu`` (one entry per NPU) or by
    ``num_npus_per_node``; with neither, all NPUs share one node.
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

    @model_validator(mode="after")
    def _one_mapping(self) -> Self:
        if self.node_of_npu is not None and self.num_npus_per_node is not None:
            raise ValueError("give either node-of-npu or num-npus-per-node, not both")
        if self.node_of_npu is not None and self.memory_type != "PER_NODE_MEMORY_EXPANSION":
            raise ValueError("node-of-npu is for PER_NODE_MEMORY_EXPANSION only")
        return self

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
    """Read a memory_expansion.json; the position in the list is the ``memory`` that nodes address."""
    data = read_json_object(path)
    if "memory-type" in data:
        return _read_flat(data, path)
    if not data or any(key not in _NAMES for key in data):
        names = " and ".join(_NAMES)
        raise InputError(path, "memory-type", f"this field is required (or the objects {names})")
    memories = []
    for name in _NAMES:
        if name in data:
            memories.append(_read_named(data[name], name, path))
        elif memories == [] and name != _NAMES[-1]:
            memories.append(MemoryConfig(memory_type="NO_MEMORY_EXPANSION"))
    return memories


def write_memories(path: str | Path, memories: Sequence[MemoryConfig], *, stock: bool = False) -> None:
    """Write a memory_expansion.json in the published fork's form (none: ASTRA-Sim's NO_MEMORY_EXPANSION).

    ``stock``: in ASTRA-Sim's own form, which has one memory, whole numbers, and as many NPUs on every node.
    Raises ValueError for what the form cannot hold.
    """
    if stock and memories:
        Path(path).write_text(json.dumps(_stock_form(memories), indent=2) + "\n", encoding="utf-8")
        return
    if len(memories) > len(_NAMES):
        raise ValueError(f"the file format holds {len(_NAMES)} memories, not {len(memories)}")
    data: dict[str, Any] = {"memory-type": "NO_MEMORY_EXPANSION"}
    if memories:
        data = {
            name: memory.model_dump(mode="json", exclude_none=True)
            for name, memory in zip(_NAMES, memories, strict=False)
        }
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _stock_form(memories: Sequence[MemoryConfig]) -> dict[str, Any]:
    if len(memories) > 1:
        raise ValueError(f"ASTRA-Sim has one memory, not {len(memories)}")
    memory = memories[0]
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

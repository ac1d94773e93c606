"""What every memory outside the NPUs holds: weights, KV that lives there, and the rest, kept for evicted KV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, InstanceSpec
from inference_serving.memory_model import GIB, remote_kv_bytes_per_block, weight_bytes_by_place
from inference_serving.placement import NPU, Place


@dataclass(frozen=True, order=True, slots=True)
class MemoryId:
    """One memory of the cluster: the host memory of a node, or a CXL device, which all nodes share."""

    place: Place
    node_id: int = 0

    @staticmethod
    def of(place: Place, node_id: int) -> MemoryId:
        """The memory that an instance of a node means by a place."""
        return MemoryId(place, node_id if place.kind == "cpu" else 0)

    @property
    def field(self) -> str:
        """The config field that gives its size."""
        return f"nodes[{self.node_id}].cpu_mem.mem_size" if self.place.kind == "cpu" else "cxl_mem.mem_size"


def settle_places(cluster: Cluster) -> Cluster:
    """Check that every memory holds the weights placed there, and give KV that lives there the rest.

    Instances that keep KV in one memory share what its weights leave in equal parts. Raises InputError where a
    memory is too small.
    """
    if all(spec.placement.is_plain for spec in cluster.instances):
        return cluster
    left = _left_after_weights(cluster)
    users: dict[MemoryId, int] = {}
    for spec in cluster.instances:
        for memory in _kv_bytes(spec):
            users[memory] = users.get(memory, 0) + 1
    settled = tuple(_with_remote_kv(cluster.file, spec, left, users) for spec in cluster.instances)
    return replace(cluster, instances=settled)


def spare_bytes(cluster: Cluster) -> dict[MemoryId, int]:
    """Bytes of every memory that neither weights nor living KV take: room for evicted KV and prefixes."""
    left = _left_after_weights(cluster)
    for spec in cluster.instances:
        for memory, block_bytes in _kv_bytes(spec).items():
            left[memory] -= block_bytes * spec.memory.kv_blocks
    return left


def _left_after_weights(cluster: Cluster) -> dict[MemoryId, int]:
    sizes = dict(_sizes(cluster))
    left = dict(sizes)
    for spec in cluster.instances:
        if spec.placement.keeps_weights:
            continue
        weights = weight_bytes_by_place(
            spec.model, spec.tp_size, spec.precision, spec.placement, spec.ep_size
        )
        for place, rank_bytes in weights.items():
            if place != NPU:
                left[MemoryId.of(place, spec.node_id)] -= rank_bytes * spec.tp_size
    for memory, rest in left.items():
        if rest < 0:
            raise InputError(
                cluster.file,
                memory.field,
                f"{memory.place} has {sizes[memory] / GIB:.3f} GB, but the weights placed there take "
                f"{(sizes[memory] - rest) / GIB:.3f} GB; make it larger, or place them elsewhere",
            )
    return left


def _sizes(cluster: Cluster) -> Iterator[tuple[MemoryId, int]]:
    for node in cluster.nodes:
        yield MemoryId(Place("cpu"), node.node_id), node.cpu_mem_bytes
    if cluster.cxl is not None:
        for device in range(cluster.cxl.devices):
            yield MemoryId(Place("cxl", device)), cluster.cxl.device_bytes


def _kv_bytes(spec: InstanceSpec) -> Mapping[MemoryId, int]:
    by_place = remote_kv_bytes_per_block(
        spec.model, spec.tp_size, spec.precision, spec.scheduler.block_size, spec.placement
    )
    return {MemoryId.of(place, spec.node_id): size for place, size in by_place.items()}


def _with_remote_kv(
    file: Path, spec: InstanceSpec, left: Mapping[MemoryId, int], users: Mapping[MemoryId, int]
) -> InstanceSpec:
    needs = _kv_bytes(spec)
    if not needs:
        return spec
    memory = min(needs, key=lambda one: left[one] // users[one] // needs[one])
    blocks = left[memory] // users[memory] // needs[memory]
    stated = spec.memory.stated_kv_blocks
    if blocks < max(stated or 1, 1):
        raise InputError(
            file,
            memory.field,
            f"{memory.place} has {left[memory] / GIB:.3f} GB beside weights for the KV of {users[memory]} instance(s), "
            f"which is {blocks} blocks for instance {spec.instance_id}, not {max(stated or 1, 1)}; make it larger, "
            "or place KV elsewhere",
        )
    return replace(spec, memory=replace(spec.memory, remote_kv_blocks=blocks))

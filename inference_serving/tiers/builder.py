"""Which instance keeps KV in which memories beyond its NPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, InstanceSpec, Role
from inference_serving.memory_places import MemoryId, spare_bytes
from inference_serving.placement import CPU, Place
from inference_serving.settings import SimulationConfig
from inference_serving.tiers.kv_tiers import KvTiers
from inference_serving.tiers.prefix_pool import PrefixPool
from inference_serving.tiers.spare_memory import SpareMemory
from llm_profile.layers import kv_bytes_per_token


def make_tiers(cluster: Cluster, config: SimulationConfig) -> Mapping[int, KvTiers]:
    """The tiers of every instance that has any, by instance id.

    Raises InputError if a pool cannot hold a single chunk, or there is no place for it.
    """
    if config.prefix_storage is None and not any(spec.placement.swaps for spec in cluster.instances):
        return {}
    spare = SpareMemory(spare_bytes(cluster))
    pools = _make_pools(cluster, config, spare) if config.prefix_storage is not None else {}
    return {
        spec.instance_id: KvTiers(spec, spare, pools.get(spec.instance_id), config.prefix_chunk_tokens)
        for spec in cluster.instances
        if spec.instance_id in pools or spec.placement.swaps
    }


def _make_pools(cluster: Cluster, config: SimulationConfig, spare: SpareMemory) -> dict[int, PrefixPool]:
    # a decode instance looks for nothing but what it has lost itself; it only adds to a pool that others use
    members = [
        spec
        for spec in cluster.instances
        if spec.scheduler.enable_prefix_caching and (config.prefix_sharing or spec.role is not Role.DECODE)
    ]
    if not members:
        raise InputError(
            "", "--prefix-storage", "is a second tier of the prefix cache; give --enable-prefix-caching, too"
        )
    for spec in members:
        if not spec.placement.keeps_kv:
            raise InputError(
                cluster.file,
                "nodes[].instances[].placement",
                f"instance {spec.instance_id} keeps KV elsewhere (kv_loc), so --prefix-storage cannot load it to the "
                "NPU; set kv_loc to npu, or drop the flag",
            )
    pools: dict[int, PrefixPool] = {}
    for memories in sorted({_memories(cluster, config, spec) for spec in members}):
        users = [spec for spec in members if _memories(cluster, config, spec) == memories]
        groups = [users] if config.prefix_sharing else [[spec] for spec in users]
        limit = sum(spare.free_bytes[memory] for memory in memories) // len(groups)
        for group in groups:
            _check_room(cluster, config, group, limit, memories[0])
            pool = PrefixPool(_name(memories[0], group, config), memories, spare, limit)
            pools |= {spec.instance_id: pool for spec in group}
    return pools


def _memories(cluster: Cluster, config: SimulationConfig, spec: InstanceSpec) -> tuple[MemoryId, ...]:
    if config.prefix_storage == "cpu":
        return (MemoryId.of(CPU, spec.node_id),)
    if cluster.cxl is None:
        raise InputError(cluster.file, "cxl_mem", "is missing, but --prefix-storage CXL needs it; add it")
    return tuple(MemoryId(Place("cxl", device)) for device in range(cluster.cxl.devices))


def _name(memory: MemoryId, group: Sequence[InstanceSpec], config: SimulationConfig) -> str:
    where = f"cpu of node {memory.node_id}" if memory.place == CPU else "cxl"
    return where if config.prefix_sharing else f"{where} for instance {group[0].instance_id}"


def _check_room(
    cluster: Cluster, config: SimulationConfig, group: Sequence[InstanceSpec], limit: int, memory: MemoryId
) -> None:
    for spec in group:
        token = kv_bytes_per_token(spec.model, spec.tp_size, spec.precision.kv_bits)
        chunk = config.prefix_chunk_tokens * token * spec.model.num_hidden_layers * spec.tp_size
        if chunk > limit:
            raise InputError(
                cluster.file,
                memory.field,
                f"leaves {limit} bytes for prefixes of instance {spec.instance_id}, but a chunk of "
                f"{config.prefix_chunk_tokens} tokens takes {chunk}; make it larger, or the chunks smaller",
            )

"""What the engine is built from: its network, system and memories, as objects and as ASTRA-Sim's files."""

from __future__ import annotations

from pathlib import Path

from astra_sim import (
    LinkSpeed,
    LinkTopology,
    MemoryConfig,
    NetworkConfig,
    SystemConfig,
    cluster_links,
    links_of_network,
    roofline_of_durations,
    stock_memories,
    write_comm_groups,
    write_graphs,
    write_memories,
    write_network,
    write_system,
)
from astra_sim.et import Dialect
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.graph_generator import build_graphs
from inference_serving.trace import Trace


def network_config(cluster: Cluster) -> NetworkConfig:
    """The network between all NPUs of the cluster."""
    return cluster.network


def system_config(cluster: Cluster) -> SystemConfig:
    """Ring collectives in one chunk; reductions at the speed of the slowest NPU memory."""
    ring = ("ring",) * len(cluster.network.topology)
    return SystemConfig(
        scheduling_policy="LIFO",
        endpoint_delay_ns=10,
        active_chunks_per_dimension=1,
        preferred_dataset_splits=1,
        all_reduce=ring,
        all_gather=ring,
        reduce_scatter=ring,
        all_to_all=ring,
        collective_optimization="localBWAware",
        local_mem_bw_gbps=min(instance.mem_bw_gbps for instance in cluster.instances),
    )


def memory_configs(cluster: Cluster) -> list[MemoryConfig]:
    """Host memory, one queue per node; the devices of a CXL pool, one queue each; NPU memories, if loads address them.

    A placement's ``memory_of`` knows this order.
    """
    memories = [_host_memory(cluster)]
    if cluster.cxl is not None:
        device = MemoryConfig(
            memory_type="MEMORY_POOL",
            bandwidth_gbps=cluster.cxl.bandwidth_gbps,
            latency_ns=round(cluster.cxl.latency_ns),
        )
        memories += [device] * cluster.cxl.devices
    if cluster.local_offloading:
        memories.append(_npu_memories(cluster))
    return memories


def _host_memory(cluster: Cluster) -> MemoryConfig:
    speeds = [(node.host_bw_gbps, round(node.host_latency_ns)) for node in cluster.nodes]
    bandwidths, latencies = zip(*speeds, strict=True)
    own = len(set(speeds)) > 1
    channels = max(node.pim.channels if node.pim is not None else 0 for node in cluster.nodes)
    return MemoryConfig(
        memory_type="PER_NODE_MEMORY_EXPANSION",
        bandwidth_gbps=bandwidths[0],
        latency_ns=latencies[0],
        node_of_npu=tuple(node.node_id for node in cluster.nodes for _ in node.npus),
        node_bandwidth_gbps=bandwidths if own else None,
        node_latency_ns=latencies if own else None,
        pim_channels=channels or None,
    )


def _npu_memories(cluster: Cluster) -> MemoryConfig:
    """The NPUs' own memories: each is a node of its own."""
    owners = [instance for instance in cluster.instances for _ in instance.npus]
    return MemoryConfig(
        memory_type="PER_NODE_MEMORY_EXPANSION",
        bandwidth_gbps=owners[0].mem_bw_gbps,
        latency_ns=round(owners[0].mem_latency_ns),
        node_of_npu=tuple(range(len(owners))),
        node_bandwidth_gbps=tuple(owner.mem_bw_gbps for owner in owners),
        node_latency_ns=tuple(round(owner.mem_latency_ns) for owner in owners),
    )


def refuse_unless_stock(cluster: Cluster, flag: str) -> None:
    """Raise InputError if stock ASTRA-Sim, which ``flag`` asks for, does not have this cluster's memories."""
    try:
        stock_memories(memory_configs(cluster))
    except ValueError as error:
        what = "the cluster cannot run in stock ASTRA-Sim"
        raise InputError(
            cluster.file, flag, f"{what}: {error}; drop the flag, or CXL, placement and offloading"
        ) from None
    if any(not spec.placement.is_plain or spec.placement.swaps for spec in cluster.instances):
        raise InputError(
            cluster.file,
            flag,
            "stock ASTRA-Sim has no copy engine for weights and KV elsewhere; drop one of the two",
        )


def packet_links(cluster: Cluster) -> LinkTopology:
    """The links of a network of packets: as the config's ``topology`` says, else those of usual servers.

    There every NPU has a link to a switch in its server and a network card on a spine switch, with the speeds
    of the first and of the last dimension. A way takes two links, so each has half of the latency.
    """
    network = cluster.network
    if cluster.wired:
        return links_of_network(network)
    speeds = [
        LinkSpeed(bandwidth, latency / 2)
        for bandwidth, latency in zip(network.bandwidth_gbps, network.latency_ns, strict=True)
    ]
    return cluster_links([len(node.npus) for node in cluster.nodes], speeds[0], speeds[-1])


def write_engine_inputs(folder: Path, cluster: Cluster, trace: Trace, dialect: Dialect) -> None:
    """Write one iteration as the files that ``python -m astra_sim`` and ASTRA-Sim read.

    ``llm.{npu}.et`` for every NPU of the cluster, network.yml, system.json, memory_expansion.json and
    comm_group.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stock = dialect == "astra-sim"
    write_network(folder / "network.yml", network_config(cluster))
    system = system_config(cluster)
    write_system(folder / "system.json", roofline_of_durations(system) if stock else system)
    write_memories(folder / "memory_expansion.json", memory_configs(cluster), stock=stock)
    groups = write_graphs(
        folder / "llm",
        build_graphs(trace.shape),
        trace.durations_ns,
        trace.sizes,
        npus=trace.shape.npus,
        npu_count=cluster.npu_count,
        dialect=dialect,
    )
    write_comm_groups(folder / "comm_group.json", groups)

"""The hardware layer: a compiled, ASTRA-Sim-compatible discrete-event engine and its file formats.

Start with :class:`Engine`; graphs are made of :class:`Node`. ``python -m astra_sim`` runs Chakra traces with
ASTRA-Sim's flags.
"""

from astra_sim._engine import NetworkError, Template
from astra_sim.comm_groups import read_comm_groups, write_comm_groups
from astra_sim.engine import Engine, EngineCounters, EngineOptions, NpuStats
from astra_sim.et import EtRecord, read_et, write_et
from astra_sim.et_graphs import read_graphs, roofline_of_durations, write_graphs
from astra_sim.graph import CollectiveKind, Completion, Graph, Node, NodeKind
from astra_sim.input_error import InputError
from astra_sim.link_topology import (
    Link,
    LinkSpeed,
    LinkTopology,
    cluster_links,
    links_of_dims,
    links_of_network,
    read_logical_dims,
)
from astra_sim.memory_config import MemoryConfig, read_memories, stock_memories, write_memories
from astra_sim.network_config import NetworkConfig, read_network, write_network
from astra_sim.ns3_backend import Ns3Options
from astra_sim.system_config import SystemConfig, read_system, write_system

__all__ = [
    "CollectiveKind",
    "Completion",
    "Engine",
    "EngineCounters",
    "EngineOptions",
    "EtRecord",
    "Graph",
    "InputError",
    "Link",
    "LinkSpeed",
    "LinkTopology",
    "MemoryConfig",
    "NetworkConfig",
    "NetworkError",
    "Node",
    "NodeKind",
    "NpuStats",
    "Ns3Options",
    "SystemConfig",
    "Template",
    "cluster_links",
    "links_of_dims",
    "links_of_network",
    "read_comm_groups",
    "read_et",
    "read_graphs",
    "read_logical_dims",
    "read_memories",
    "read_network",
    "read_system",
    "roofline_of_durations",
    "stock_memories",
    "write_comm_groups",
    "write_et",
    "write_graphs",
    "write_memories",
    "write_network",
    "write_system",
]

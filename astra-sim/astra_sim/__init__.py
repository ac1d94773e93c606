"""The hardware layer: a compiled, ASTRA-Sim-compatible discrete-event engine and its file formats.

Start with :class:`Engine`; graphs are made of :class:`Node`. ``python -m astra_sim`` runs Chakra traces with
ASTRA-Sim's flags.
"""

from astra_sim._engine import Template
from astra_sim.comm_groups import read_comm_groups, write_comm_groups
from astra_sim.engine import Engine, EngineCounters, EngineOptions, NpuStats
from astra_sim.et import EtRecord, read_et, write_et
from astra_sim.et_graphs import read_graphs, roofline_of_durations, write_graphs
from astra_sim.graph import CollectiveKind, Completion, Graph, Node, NodeKind
from astra_sim.input_error import InputError
from astra_sim.memory_config import MemoryConfig, read_memories, write_memories
from astra_sim.network_config import NetworkConfig, read_network, write_network
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
    "MemoryConfig",
    "NetworkConfig",
    "Node",
    "NodeKind",
    "NpuStats",
    "SystemConfig",
    "Template",
    "read_comm_groups",
    "read_et",
    "read_graphs",
    "read_memories",
    "read_network",
    "read_system",
    "roofline_of_durations",
    "write_comm_groups",
    "write_et",
    "write_graphs",
    "write_memories",
    "write_network",
    "write_system",
]

"""The engine as the serving layer sees it: compile once, submit numbers, advance to the next completion."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astra_sim import _engine
from astra_sim._engine import Template
from astra_sim.custom_collectives import CONFIGURABLE, CustomCollectives
from astra_sim.graph import Completion, Graph
from astra_sim.memory_config import MemoryConfig
from astra_sim.network_config import NetworkConfig
from astra_sim.ns3_backend import Ns3Options, start_ns3
from astra_sim.stall_doctor import BlockedNode
from astra_sim.system_config import SystemConfig


class NpuStats(NamedTuple):
    """What one NPU has done so far; times in ns."""

    finish_ns: int
    """When its last node so far finished."""
    compute_ns: int
    """Sum of the durations of its compute nodes that are not CPU operations."""
    cpu_ns: int
    """Sum of the durations of its CPU operations."""
    communication_ns: int
    """Time with at least one collective, send or posted receive under way."""
    memory_ns: int
    """Time with a load or store under way."""
    nodes_finished: int
    roofline_ns: int
    """Sum of the durations of the compute nodes that the roofline timed."""
    compute_bound_ns: int
    """Of those: the nodes that the peak limits, not the memory."""
    operations: int
    tensor_bytes: int


class NodeSpan(NamedTuple):
    """A node as it ran; ``end_ns`` is -1 if it has not finished."""

    npu: int
    node_id: int
    begin_ns: int
    end_ns: int


class LinkSpan(NamedTuple):
    """A message on a link, from its first byte going in until its last byte has."""

    link: str
    source: int
    destination: int
    bytes: int
    begin_ns: int
    end_ns: int


class EngineCounters(NamedTuple):
    """What the whole engine has done so far."""

    events: int
    nodes_finished: int
    p2p_bytes: int
    collective_bytes: int
    tickets_active: int


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What ASTRA-Sim's users say on the command line rather than in a file."""

    backend: str = "unaware"
    """Network model: ``unaware`` or ``aware`` of congestion, or packets in ``ns3``."""
    queues_per_dim: int = 1
    """Queues of each NPU and dimension, for the streams of collectives."""
    rendezvous: bool = False
    """Messages wait until their receive has been posted."""
    ns3: Ns3Options | None = None
    """How ``ns3`` moves packets; None: its defaults."""


_DEFAULTS = EngineOptions()
_NO_CUSTOMS = CustomCollectives()


class Engine:
    """One discrete-event simulation: a clock in ns, a network, memories, and NPUs that execute graphs.

    Backend "ns3" starts a network process of its own, which ends with the engine. If that process fails,
    methods raise NetworkError.

    >>> import numpy as np
    >>> from astra_sim import Graph, Node, NodeKind
    >>> engine = Engine(NetworkConfig.flat("Switch", 2, bandwidth_gbps=50, latency_ns=500), SystemConfig())
    >>> work = engine.compile([Graph((Node(0, NodeKind.COMP, duration_slot=0),))])
    >>> ticket = engine.submit(work, [1], np.array([250]), np.array([], dtype=np.int64), at_ns=100)
    >>> engine.advance()
    [Completion(ticket=0, part=0, finish_ns=350)]
    """

    def __init__(
        self,
        network: NetworkConfig,
        system: SystemConfig,
        memories: Sequence[MemoryConfig] = (),
        options: EngineOptions = _DEFAULTS,
        customs: CustomCollectives = _NO_CUSTOMS,
    ) -> None:
        self._npu_count = network.npu_total
        if options.ns3 is not None and options.backend != "ns3":
            raise ValueError(f"ns3 options are for backend 'ns3', not {options.backend!r}")
        parts = (
            _dimensions(network),
            _system(system, options, customs),
            [_memory(memory, network.npu_total) for memory in memories],
            [_engine.CustomSpec(one.graphs, one.durations_ns, one.sizes) for one in customs.collectives],
        )
        if options.backend == "ns3":
            process = start_ns3(network, options.ns3 or Ns3Options())
            weakref.finalize(self, process.stop)
            self._simulation = _engine.Simulation("pipe", *parts, *process.hand_over())
        else:
            self._simulation = _engine.Simulation(options.backend, *parts)

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return self._simulation.now_ns

    @property
    def npu_count(self) -> int:
        """Number of NPUs of the system."""
        return self._npu_count

    def compile(self, graphs: Sequence[Graph]) -> Template:
        """Check and pack graphs; ``graphs[i]`` will run on ``npus[i]`` of a submission.

        Raises ValueError naming NPU (its position in ``graphs``), node id and name for an unknown dependency, a
        dependency cycle, a peer or group out of range, a missing slot, or a collective that cannot complete.
        """
        return self._simulation.compile(graphs)

    def submit(
        self,
        template: Template,
        npus: Sequence[int],
        durations_ns: NDArray[np.int64],
        sizes: NDArray[np.int64],
        at_ns: int,
    ) -> int:
        """Start a template's graphs on ``npus`` at ``at_ns`` (not before now); returns the ticket."""
        return self._simulation.submit(template, npus, durations_ns, sizes, at_ns)

    def advance(self, until_ns: int | None = None) -> list[Completion]:
        """Run until the end of the tick in which the first parts complete, at most until ``until_ns``.

        Returns the completions of that tick. Without any, the result is empty and the clock stands at
        ``until_ns``, or, without a limit, no event is left.
        """
        return [Completion(*done) for done in self._simulation.advance(until_ns)]

    def stall_report(self) -> list[BlockedNode]:
        """The unfinished nodes and what each waits for; see :mod:`astra_sim.stall_doctor` for a diagnosis."""
        return [
            BlockedNode(npu, node_id, name, cause, None if blocker < 0 else blocker)
            for npu, node_id, name, cause, blocker in self._simulation.stall_report()
        ]

    def record(self) -> None:
        """Keep what happens from now on, for :meth:`node_spans` and :meth:`link_spans`; memory grows with it."""
        self._simulation.record()

    def node_spans(self) -> list[NodeSpan]:
        """The recorded nodes, in order of their beginning."""
        return [NodeSpan(*span) for span in self._simulation.node_spans()]

    def link_spans(self) -> list[LinkSpan]:
        """The recorded messages on links, in order of their beginning."""
        return [LinkSpan(*span) for span in self._simulation.link_spans()]

    def npu_stats(self, npu: int) -> NpuStats:
        """What one NPU has done so far."""
        return NpuStats(*self._simulation.npu_stats(npu))

    @property
    def counters(self) -> EngineCounters:
        """What the engine has done so far."""
        return EngineCounters(
            self.events, self.nodes_finished, self.p2p_bytes, self.collective_bytes, self.tickets_active
        )

    @property
    def events(self) -> int:
        """Events run so far."""
        return self._simulation.events

    @property
    def nodes_finished(self) -> int:
        """Nodes finished so far."""
        return self._simulation.nodes_finished

    @property
    def p2p_bytes(self) -> int:
        """Bytes sent by send nodes so far."""
        return self._simulation.p2p_bytes

    @property
    def collective_bytes(self) -> int:
        """Bytes that collectives put on the network so far."""
        return self._simulation.collective_bytes

    @property
    def tickets_active(self) -> int:
        """Number of tickets with unfinished parts."""
        return self._simulation.tickets_active


def _dimensions(network: NetworkConfig) -> list[_engine.Dimension]:
    return [
        _engine.Dimension(wiring, npus, bandwidth, latency)
        for wiring, npus, bandwidth, latency in zip(
            network.topology, network.npus_count, network.bandwidth_gbps, network.latency_ns, strict=True
        )
    ]


def _system(config: SystemConfig, options: EngineOptions, customs: CustomCollectives) -> _engine.SystemSpec:
    spec = _engine.SystemSpec()
    spec.endpoint_delay_ns = config.endpoint_delay_ns
    spec.active_chunks = config.active_chunks_per_dimension
    spec.splits = config.preferred_dataset_splits
    spec.queues_per_dimension = options.queues_per_dim
    spec.rendezvous = options.rendezvous
    spec.local_bandwidth_aware = config.collective_optimization == "localBWAware"
    spec.local_mem_bw_gbps = config.local_mem_bw_gbps or 0.0
    spec.peak_tflops = config.peak_perf_tflops or 0.0
    spec.roofline = config.roofline_enabled
    spec.replay_only = config.replay_only
    spec.algorithms = [
        list(names)
        for names in (config.all_reduce, config.all_gather, config.reduce_scatter, config.all_to_all)
    ]
    spec.custom_of_kind = [customs.of_kind.get(kind, -1) for kind in CONFIGURABLE]
    spec.custom_of_node = dict(customs.of_node)
    return spec


def _memory(config: MemoryConfig, npu_count: int) -> _engine.MemorySpec:
    if config.num_devices > 1:
        raise ValueError(f"give {config.num_devices} memories of one device each, one for every queue")
    return _engine.MemorySpec(
        config.memory_type,
        config.latency_ns,
        config.bandwidth_gbps,
        config.nodes(npu_count),
        config.node_speeds(),
        config.pim_channels or 0,
    )

"""Hands iterations to an engine and brings its completions back: in process, or to an external executable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from astra_sim import Completion, Engine, EngineCounters, EngineOptions, Ns3Options, Template
from astra_sim.stall_doctor import diagnosis
from inference_serving.cluster import Cluster
from inference_serving.engine_inputs import memory_configs, network_config, packet_links, system_config
from inference_serving.external_engine import ExternalController
from inference_serving.graph_fusion import FusedGraphs
from inference_serving.graph_generator import build_graphs, build_wave_graphs, wave_npus
from inference_serving.settings import SimulationConfig
from inference_serving.trace import Trace
from inference_serving.trace_shape import TraceShape


class Controller(Protocol):
    """What the event loop needs of an engine; time is its clock, in ns."""

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        ...

    @property
    def counters(self) -> EngineCounters:
        """What the engine has counted so far: events, bytes."""
        ...

    def submit(self, trace: Trace, at_ns: int) -> int:
        """Start an iteration at ``at_ns``; returns its ticket."""
        ...

    def advance(self, until_ns: int | None) -> list[Completion]:
        """Run to the next completion, or to ``until_ns`` if nothing completes before."""
        ...

    def stall_report(self) -> list[str]:
        """Why nothing moves any more: who waits for whom."""
        ...


class EngineController:
    """The compiled engine, one for the whole cluster; every trace structure is compiled once."""

    def __init__(
        self, cluster: Cluster, network_backend: str = "unaware", ns3: Ns3Options | None = None
    ) -> None:
        if ns3 is not None:
            ns3 = replace(ns3, links=packet_links(cluster))
        self._engine = Engine(
            network_config(cluster),
            system_config(cluster),
            memory_configs(cluster),
            EngineOptions(network_backend, ns3=ns3),
        )
        self._templates: dict[TraceShape, tuple[Template, FusedGraphs]] = {}
        self._wave_templates: dict[tuple[TraceShape, ...], tuple[Template, FusedGraphs]] = {}

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return self._engine.now_ns

    @property
    def counters(self) -> EngineCounters:
        """What the engine has counted so far."""
        return self._engine.counters

    def submit(self, trace: Trace, at_ns: int) -> int:
        """Start an iteration at ``at_ns``; returns its ticket."""
        shape = trace.shape
        if shape not in self._templates:
            fused = FusedGraphs(build_graphs(shape), len(trace.durations_ns))
            self._templates[shape] = self._engine.compile(fused.graphs), fused
        template, fused = self._templates[shape]
        durations_ns = fused.durations_ns(trace.durations_ns)
        return self._engine.submit(template, shape.npus, durations_ns, trace.sizes, at_ns)

    def submit_wave(self, traces: Sequence[Trace], at_ns: int) -> int:
        """Start iterations of several instances as one, which ends with the last of them; returns its ticket."""
        shapes = tuple(trace.shape for trace in traces)
        durations_ns = np.concatenate([trace.durations_ns for trace in traces])
        if shapes not in self._wave_templates:
            graphs = build_wave_graphs([(trace.shape, len(trace.durations_ns)) for trace in traces])
            fused = FusedGraphs(graphs, len(durations_ns))
            self._wave_templates[shapes] = self._engine.compile(fused.graphs), fused
        template, fused = self._wave_templates[shapes]
        npus = wave_npus(shapes)
        sizes = np.concatenate([trace.sizes for trace in traces])
        return self._engine.submit(template, npus, fused.durations_ns(durations_ns), sizes, at_ns)

    def advance(self, until_ns: int | None) -> list[Completion]:
        """Run to the next completion, or to ``until_ns`` if nothing completes before."""
        return self._engine.advance(until_ns)

    def stall_report(self) -> list[str]:
        """The wait-for chain of the engine's unfinished nodes."""
        return diagnosis(self._engine.stall_report())


def make_controller(cluster: Cluster, config: SimulationConfig) -> Controller:
    """The engine that a run's settings ask for."""
    if config.engine_binary is not None:
        return ExternalController(cluster, config.engine_binary)
    return EngineController(cluster, config.network_backend, config.ns3)

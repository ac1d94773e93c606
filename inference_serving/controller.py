"""Hands iterations to the engine and brings its completions back."""

from __future__ import annotations

from astra_sim import Completion, Engine, Template
from inference_serving.cluster import Cluster
from inference_serving.config_builder import memory_configs, network_config, system_config
from inference_serving.graph_generator import build_graphs
from inference_serving.trace_generator import Trace
from inference_serving.trace_shape import TraceShape


class Controller:
    """One engine for the whole cluster; every trace structure is compiled once."""

    def __init__(self, cluster: Cluster) -> None:
        self._engine = Engine(network_config(cluster), system_config(cluster), memory_configs(cluster))
        self._templates: dict[TraceShape, Template] = {}

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return self._engine.now_ns

    @property
    def engine(self) -> Engine:
        """The engine, for its counters."""
        return self._engine

    def submit(self, trace: Trace, at_ns: int) -> int:
        """Start an iteration at ``at_ns``; returns its ticket."""
        template = self._templates.get(trace.shape)
        if template is None:
            template = self._templates[trace.shape] = self._engine.compile(build_graphs(trace.shape))
        return self._engine.submit(template, trace.shape.npus, trace.durations_ns, trace.sizes, at_ns)

    def advance(self, until_ns: int | None) -> list[Completion]:
        """Run to the next completion, or to ``until_ns`` if nothing completes before."""
        return self._engine.advance(until_ns)

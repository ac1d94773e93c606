"""Runs in which every batch is cut into layer groups, by a scheduler around the usual one."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters import TINY_MODEL, LinearLatency, cluster_file, instance

from inference_serving.cluster import Cluster, Role
from inference_serving.config_builder import load_cluster
from inference_serving.instance import Instance
from inference_serving.layer_group import LayerGroup, layer_groups
from inference_serving.request import Batch
from inference_serving.request_spec import RequestSpec
from inference_serving.scheduler import IterationOutcome, Scheduler
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import RunObserver, Simulation
from inference_serving.trace import Trace


class InLayerGroups:
    """Cuts every batch of a scheduler; the batches numbered in ``given_up`` lose their first row after a group."""

    def __init__(self, scheduler: Scheduler, groups: Sequence[LayerGroup], given_up: Collection[int]) -> None:
        self._scheduler = scheduler
        self._groups = groups
        self._given_up = given_up
        self._batches = 0
        self._batch: Batch | None = None
        self._left: list[LayerGroup] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def schedule(self, now_ns: int) -> Batch | None:
        if not self._left:
            self._batch = self._scheduler.schedule(now_ns)
            self._left = list(self._groups)
        if self._batch is None:
            self._left = []
            return None
        return replace(self._batch, layer_group=self._left.pop(0))

    def complete(self, end_ns: int) -> IterationOutcome:
        first_of_many = len(self._left) == len(self._groups) - 1 > 0
        self._batches += first_of_many
        if first_of_many and self._batches - 1 in self._given_up:
            self._left = []
            self._scheduler._preempt(0)
        elif not self._left:
            return self._scheduler.complete(end_ns)
        return IterationOutcome([], [], 0)


class Log:
    """Notes the trace and the time of every submission, and whether its KV has landed."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.traces: list[tuple[int, Trace]] = []
        self.started_ns: list[int] = []

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        self.traces.append((instance.instance_id, trace))
        self.started_ns.append(self._simulation.controller.now_ns)

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        pass


def cluster_of(folder: Path, *kinds: tuple[int, str | None], blocks: int = 6, **top: Any) -> Cluster:
    """Instances of (NPUs, role) that serve a tiny model of ``blocks`` blocks."""
    model = folder / f"tiny_{blocks}.json"
    model.write_text(json.dumps({**TINY_MODEL, "num_hidden_layers": blocks}))
    config = top.pop("config", SimulationConfig())
    sections = [instance(folder, *kind, kv_tokens=200_000, model_name=str(model)) for kind in kinds]
    return load_cluster(cluster_file(folder, sections, **top), config)


def run_in_groups(
    cluster: Cluster,
    workload: Sequence[RequestSpec],
    count: int,
    config: SimulationConfig | None = None,
    *,
    latency: LinearLatency | None = None,
    given_up: Collection[int] = (),
    observers: Sequence[RunObserver] = (),
) -> tuple[Simulation, Log]:
    """Run a workload; instances that prefill cut every batch into ``count`` layer groups (1: not at all)."""
    latencies = {spec.instance_id: latency or LinearLatency() for spec in cluster.instances}
    seen: list[RunObserver] = list(observers)
    simulation = Simulation(cluster, workload, config or SimulationConfig(), latencies, seen)
    log = Log(simulation)
    seen.append(log)
    for one in simulation.instances.values():
        if one.spec.role is not Role.DECODE:
            groups = layer_groups(one.spec.model.num_hidden_layers, count)
            one.scheduler = InLayerGroups(one.scheduler, groups, given_up)  # type: ignore[assignment]
    simulation.run()
    return simulation, log


def token_times(simulation: Simulation) -> dict[int, list[int]]:
    """Times of every request's tokens, by request."""
    return {one.request_id: one.token_times_ns().tolist() for one in simulation.finished}

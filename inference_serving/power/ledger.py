"""The books of one node: who drew what, when.

Everything that is drawn is power over a span of time, so the books can be closed at any time up to now, also
in the middle of an iteration. An iteration's own energy (layers, bytes moved) is spread evenly over its first
part, as long as its layers take.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.power.bins import Draw, EnergyBins
from inference_serving.power.component import PowerComponent, PoweredNode, make_components
from inference_serving.power.iteration_work import FloatArray, IterationWork
from inference_serving.trace import Trace
from inference_serving.trace_shape import TraceShape


class _WorkEnergy:
    """J of iterations of one structure, by the parts that have any, from a trace's numbers."""

    def __init__(self, components: Sequence[PowerComponent], trace: Trace) -> None:
        work = IterationWork.of(trace)
        per_ns = {part: one.energy_per_ns(work) for part, one in enumerate(components)}
        per_byte = {part: one.energy_per_byte(work) for part, one in enumerate(components)}
        by_time = {part: row for part, row in per_ns.items() if row is not None and row.any()}
        by_size = {part: row for part, row in per_byte.items() if row is not None and row.any()}
        layers = work.compute_runs() / len(trace.shape.instance.npus)
        self._by_time: FloatArray = np.array([layers, *by_time.values()])
        self._by_size: FloatArray = np.array([np.zeros(len(trace.sizes)), *by_size.values()])
        self._parts = (*by_time, *by_size)

    def of(self, trace: Trace) -> tuple[int, list[Draw]]:
        """The time of an NPU's layers in ns (mean over the NPUs), and J by part."""
        layers_ns, *by_time = self._by_time.dot(trace.durations_ns).tolist()
        _, *by_size = self._by_size.dot(trace.sizes).tolist()
        return max(round(layers_ns), 1), list(zip(self._parts, by_time + by_size, strict=True))


class _InstanceState:
    """An iteration in flight of an instance or of one of its stages, and what it draws then and shortly after."""

    def __init__(self, components: Sequence[PowerComponent], instance: InstanceSpec) -> None:
        occupancies = [
            (part, occupancy)
            for part, component in enumerate(components)
            if (occupancy := component.occupancy(instance)) is not None
        ]
        self.occupied_w: list[Draw] = [(part, one.power_w) for part, one in occupancies]
        self.occupied_sum_w = sum(one.power_w for _, one in occupancies)
        self.tails = [([(part, one.power_w)], one.lasts_ns) for part, one in occupancies]
        self.running = False
        self.settled_ns = 0
        self.start_ns = 0
        self.end_ns: int | None = None
        self.work_stop_ns = 0
        self.work_w: list[Draw] = []
        self.work_j = 0.0
        self.host_share_start_s = 0.0


class NodeLedger:
    """Energy of one node by interval and part; ``names`` are the parts.

    Times of successive calls must not fall, except that :meth:`settle` may look back.
    """

    def __init__(self, node: PoweredNode, interval_ns: int) -> None:
        made = make_components(node)
        self.node_id = node.node.node_id
        self.names = tuple(made)
        self.base_w: FloatArray = np.array([component.base_w for component in made.values()])
        self.bins = EnergyBins(interval_ns, len(made))
        self._base_sum_w = float(self.base_w.sum())
        self._components = tuple(made.values())
        self._running_w = [
            (part, one.running_w) for part, one in enumerate(self._components) if one.running_w
        ]
        self._running_sum_w = sum(watts for _, watts in self._running_w)
        self._instances = {
            (one.instance_id, stage): _InstanceState(self._components, view)
            for one in node.instances
            for stage, view in enumerate([one.of_stage(stage) for stage in one.stages()] or [one])
        }
        self._work: dict[TraceShape, _WorkEnergy] = {}
        self._running = 0
        self._running_settled_ns = 0
        self._host_share_s = 0.0

    def start(self, trace: Trace, now_ns: int) -> None:
        """An instance of the node, or a pipeline stage of it, begins an iteration."""
        stage = trace.shape.stage
        state = self._instances[trace.shape.instance.instance_id, 0 if stage is None else stage.part]
        if trace.shape not in self._work:
            self._work[trace.shape] = _WorkEnergy(self._components, trace)
        layers_ns, energy_j = self._work[trace.shape].of(trace)
        self._settle_instance(state, now_ns)
        self._settle_running(now_ns)
        state.running, state.start_ns = True, now_ns
        state.work_stop_ns = now_ns + layers_ns
        state.work_w = [(part, joules * 1e9 / layers_ns) for part, joules in energy_j]
        state.work_j = sum(joules for _, joules in energy_j)
        state.host_share_start_s = self._host_share_s
        self._running += 1

    def end(self, instance_id: int, now_ns: int, stage: int = 0) -> float:
        """An iteration, or a stage's part of it, has ended; returns what it used (J) beyond the node's idle power.

        What the host draws while several instances run is split evenly between them.
        """
        state = self._instances[instance_id, stage]
        self._settle_instance(state, now_ns)
        self._settle_running(now_ns)
        if state.work_stop_ns > now_ns:  # an external engine may round an iteration down
            left_s = (state.work_stop_ns - now_ns) * 1e-9
            self.bins.add_energy([(part, watts * left_s) for part, watts in state.work_w], now_ns)
        state.running, state.end_ns = False, now_ns
        self._running -= 1
        on_standby_j = state.occupied_sum_w * (now_ns - state.start_ns) * 1e-9
        host_j = self._running_sum_w * (self._host_share_s - state.host_share_start_s)
        return state.work_j + on_standby_j + host_j

    def settle(self, until_ns: int) -> None:
        """Enter everything up to ``until_ns``, which is now or earlier."""
        for state in self._instances.values():
            self._settle_instance(state, until_ns)
        self._settle_running(until_ns)

    def energy_j(self, index: int, covered_ns: int) -> float:
        """Energy of an interval of which ``covered_ns`` have passed, all parts together."""
        return self.bins.of(index) + self._base_sum_w * (covered_ns * 1e-9)

    def _settle_instance(self, state: _InstanceState, until_ns: int) -> None:
        start_ns = state.settled_ns
        if until_ns <= start_ns:
            return
        state.settled_ns = until_ns
        if state.running:
            self.bins.add_power(state.occupied_w, start_ns, until_ns)
            self.bins.add_power(state.work_w, start_ns, min(until_ns, state.work_stop_ns))
        elif state.end_ns is not None:
            for power_w, lasts_ns in state.tails:
                self.bins.add_power(power_w, start_ns, min(until_ns, state.end_ns + lasts_ns))

    def _settle_running(self, until_ns: int) -> None:
        start_ns = self._running_settled_ns
        if until_ns <= start_ns:
            return
        self._running_settled_ns = until_ns
        if self._running:
            self.bins.add_power(self._running_w, start_ns, until_ns)
            self._host_share_s += (until_ns - start_ns) * 1e-9 / self._running

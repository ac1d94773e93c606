"""Power and energy of a run: watches iterations, and keeps the books of every node with a ``power`` block.

See docs/power.md for the model. Once per iteration, a few small vectors; runs without ``power`` have none
of it.
"""

from __future__ import annotations

import numpy as np

import inference_serving.power.components  # noqa: F401  (registers the parts)
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.instance import Instance
from inference_serving.power.component import PoweredNode
from inference_serving.power.ledger import NodeLedger
from inference_serving.power.report import EnergyReport, NodeEnergy
from inference_serving.power.request_energy import RequestEnergy
from inference_serving.power.staged_energy import StagedEnergy
from inference_serving.request import Batch, Int64Array
from inference_serving.scheduler import IterationOutcome
from inference_serving.trace import Trace

_MOST_INTERVALS = 10**6
_LEAST_INTERVAL_NS = 10**6


class PowerModel:
    """Observes a run; everything it tells is true up to the last event that it saw."""

    def __init__(self, cluster: Cluster, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._now_ns = 0
        self._ledgers = [
            NodeLedger(PoweredNode(node, node.power, cluster.on_node(node.node_id)), interval_ns)
            for node in cluster.nodes
            if node.power is not None
        ]
        of_node = {ledger.node_id: ledger for ledger in self._ledgers}
        self._ledger_of = {
            spec.instance_id: of_node[spec.node_id] for spec in cluster.instances if spec.node_id in of_node
        }
        self._requests = RequestEnergy()
        self._pipelines = {spec.instance_id: StagedEnergy(spec.pp_size) for spec in cluster.instances}

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """An iteration, or a pipeline stage of one, begins."""
        ledger = self._ledger_of.get(instance.instance_id)
        if ledger is None:
            return
        assert instance.in_flight is not None
        ledger.start(trace, instance.in_flight.start_ns)
        if trace.shape.is_first_stage:
            lane = self._pipelines[instance.instance_id].begin()
            self._requests.start((instance.instance_id, lane), instance.in_flight.requests)

    def on_stage_end(self, now_ns: int, instance: Instance, stage: int) -> None:
        """A pipeline stage has ended its part of an iteration."""
        self._now_ns = now_ns
        ledger = self._ledger_of.get(instance.instance_id)
        if ledger is not None:
            self._pipelines[instance.instance_id].add(stage, ledger.end(instance.instance_id, now_ns, stage))

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """An iteration has ended: its energy belongs to its requests."""
        self._now_ns = now_ns
        ledger = self._ledger_of.get(instance.instance_id)
        if ledger is None:
            return
        pipeline = self._pipelines[instance.instance_id]
        if instance.spec.pp_size == 1:
            pipeline.add(0, ledger.end(instance.instance_id, now_ns))
        lane, energy_j = pipeline.finish()
        self._requests.end((instance.instance_id, lane), batch, energy_j)

    def mean_power_w(self, interval_end_ns: int) -> float:
        """Mean power of all nodes in the interval that ends at ``interval_end_ns``, as far as it has passed."""
        index = interval_end_ns // self._interval_ns - 1
        until_ns = min(interval_end_ns, self._now_ns)
        covered_ns = until_ns - index * self._interval_ns
        energy_j = 0.0
        for ledger in self._ledgers:
            ledger.settle(until_ns)
            energy_j += ledger.energy_j(index, covered_ns)
        return energy_j / (covered_ns * 1e-9)

    def report(self) -> EnergyReport:
        """Energy from 0 to the last event, by interval, node and part, and what requests have of it."""
        for ledger in self._ledgers:
            ledger.settle(self._now_ns)
        ends_ns = self._interval_ends_ns()
        lengths_s = np.diff(ends_ns, prepend=0)[:, None] * 1e-9
        nodes = tuple(
            NodeEnergy(
                ledger.node_id,
                ledger.names,
                ledger.bins.first(len(ends_ns)) + ledger.base_w * lengths_s,
            )
            for ledger in self._ledgers
        )
        return EnergyReport(ends_ns, nodes, self._requests.by_request_j())

    def _interval_ends_ns(self) -> Int64Array:
        intervals = -(-self._now_ns // self._interval_ns)
        ends_ns = (np.arange(intervals, dtype=np.int64) + 1) * self._interval_ns
        if intervals:
            ends_ns[-1] = self._now_ns
        return ends_ns


def make_power_model(cluster: Cluster, interval_ns: int, last_arrival_ns: int) -> PowerModel | None:
    """The model of a cluster's power, or None if no node has a ``power`` block.

    Raises InputError if there would be more intervals than anybody wants to keep.
    """
    if all(node.power is None for node in cluster.nodes):
        return None
    if interval_ns < _LEAST_INTERVAL_NS:
        raise InputError(
            "", "--log-interval", f"{interval_ns / 1e9:g}: with power it must be at least 0.001 seconds"
        )
    intervals = last_arrival_ns // interval_ns
    if intervals > _MOST_INTERVALS:
        raise InputError(
            "",
            "--log-interval",
            f"{interval_ns / 1e9:g}: the last request arrives after {intervals} intervals, but with power at most "
            f"{_MOST_INTERVALS} are kept; give a longer interval, or arrivals that start near 0",
        )
    return PowerModel(cluster, interval_ns)

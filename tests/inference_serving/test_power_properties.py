"""Energy is conserved: over intervals, parts and requests, and against books kept in another way."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusters import LinearLatency, instance, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from power_clusters import ACTIVE_W, BASE_W, IDLE_W, RUNNING_CPU_W, STANDBY_W, power_block, powered_cluster
from test_simulation import kinds, lengths, schedulers

from inference_serving.power_model import PowerModel
from inference_serving.settings import SimulationConfig
from inference_serving.trace_shape import DURATION_SLOT

PJ_PER_BIT = 8e-12
STANDBY_NS = 20_000
IN_LAYER_GROUPS = {"scheduling_policy": "srpt", "policy_args": (("groups", "2"),)}


class Iterations:
    """Notes every iteration of a run: instance, NPUs, start, end, time of its layers, bytes of token ids."""

    def __init__(self) -> None:
        self.all: list[dict] = []
        self.open: dict[int, dict] = {}

    def on_submit(self, one, trace, ticket) -> None:
        rows = trace.shape.rows
        token_ids = trace.tokens * sum(row.loads_token_ids for row in rows)
        sampled_ids = one.in_flight.batch.sequences * sum(row.stores_sampled_ids for row in rows)
        npus = len(one.spec.npus)
        self.open[one.instance_id] = {
            "instance": one.instance_id,
            "npus": npus,
            "start": one.in_flight.start_ns,
            "layers": sum(int(trace.durations_ns[DURATION_SLOT[row.layer]]) for row in rows),
            "host_bytes": npus * 4 * (token_ids + sampled_ids),
        }

    def on_iteration(self, now_ns, one, batch, outcome) -> None:
        self.all.append({**self.open.pop(one.instance_id), "end": now_ns})


class AskedWhileRunning:
    """Asks for the power of every interval at the first event after it, as the interval log does."""

    def __init__(self, power: PowerModel, interval_ns: int) -> None:
        self.power, self.interval_ns, self.told = power, interval_ns, {}

    def on_submit(self, one, trace, ticket) -> None:
        pass

    def on_iteration(self, now_ns, one, batch, outcome) -> None:
        for index in range(len(self.told), (now_ns - 1) // self.interval_ns):
            self.told[index] = self.power.mean_power_w((index + 1) * self.interval_ns)


def covered_s(spans: list[tuple[int, int]], until_ns: int) -> float:
    """Length of the union of spans, up to a time."""
    covered, reached = 0, 0
    for start, end in sorted(spans):
        covered += max(min(end, until_ns) - max(start, reached), 0)
        reached = max(reached, end)
    return covered / 1e9


def expected_j(iterations: list[dict], npus_of: dict[int, int], total_ns: int, sent_bytes: int) -> dict:
    """Joules by part, from the list of all iterations."""
    total_s = total_ns / 1e9
    energy = {part: watts * total_s for part, watts in BASE_W.items()}
    energy["npu"] = sum(npus_of.values()) * IDLE_W * total_s
    for instance_id, npus in npus_of.items():
        own = [one for one in iterations if one["instance"] == instance_id]
        awake_s = covered_s([(one["start"], one["end"] + STANDBY_NS) for one in own], total_ns)
        layers_s = sum(one["layers"] for one in own) / 1e9
        energy["npu"] += npus * ((STANDBY_W - IDLE_W) * awake_s + (ACTIVE_W - STANDBY_W) * layers_s)
    energy["cpu"] += RUNNING_CPU_W * covered_s([(one["start"], one["end"]) for one in iterations], total_ns)
    energy["dram"] += sum(one["host_bytes"] for one in iterations) * 6 * PJ_PER_BIT
    energy["link"] += sent_bytes * 5 * PJ_PER_BIT
    return energy


def unassigned_j(iterations: list[dict], npus_of: dict[int, int], total_ns: int) -> float:
    """Idle power of everything, and standby between iterations."""
    energy = (sum(BASE_W.values()) + sum(npus_of.values()) * IDLE_W) * total_ns / 1e9
    for instance_id, npus in npus_of.items():
        own = [one for one in iterations if one["instance"] == instance_id]
        awake_s = covered_s([(one["start"], one["end"] + STANDBY_NS) for one in own], total_ns)
        at_work_s = sum(one["end"] - one["start"] for one in own) / 1e9
        energy += npus * (STANDBY_W - IDLE_W) * (awake_s - at_work_s)
    return energy


@settings(max_examples=50)
@given(
    kinds,
    lengths,
    schedulers,
    st.integers(0, 200_000),
    st.sampled_from([7_001, 50_000, 1_000_000]),
    st.sampled_from([0, 3_000]),
    st.sampled_from([{}, IN_LAYER_GROUPS]),
)
def test_energy_is_conserved(npus, pairs, scheduler, gap_ns, interval_ns, overhead_ns, policy):
    folder, config = Path(tempfile.mkdtemp()), SimulationConfig(scheduler=replace(scheduler, **policy))
    block = power_block(npu={"standby_duration": STANDBY_NS / 1e9})
    cluster = powered_cluster(folder, [instance(folder, npu, pd, 100_000) for npu, pd in npus], block, config)
    power, noted = PowerModel(cluster, interval_ns), Iterations()
    asked = AskedWhileRunning(power, interval_ns)
    workload = requests(*pairs, gap_ns=gap_ns)
    simulation = simulate(
        cluster, workload, config, [power, noted, asked], LinearLatency(step_overhead_ns=overhead_ns)
    )
    report = power.report()
    (node,) = report.nodes
    npus_of = {spec.instance_id: len(spec.npus) for spec in cluster.instances}
    sent_bytes = simulation.counters.collective_bytes + simulation.counters.p2p_bytes

    assert report.duration_ns == max(request.end_ns for request in simulation.finished)
    assert node.by_part_j() == pytest.approx(
        expected_j(noted.all, npus_of, report.duration_ns, sent_bytes), rel=1e-9
    )
    assert sum(node.by_part_j().values()) == pytest.approx(report.total_j, rel=1e-12)
    assert float(report.power_w() @ report.lengths_s()) == pytest.approx(report.total_j, rel=1e-12)
    assert report.assigned_j + report.unassigned_j == pytest.approx(report.total_j, rel=1e-12)
    assert report.unassigned_j == pytest.approx(
        unassigned_j(noted.all, npus_of, report.duration_ns), rel=1e-9
    )
    assert all(report.of_request_j(request.request_id) > 0 for request in workload)
    assert report.by_request_j[len(workload) :].sum() == 0
    assert np.all(report.power_w() > 0)
    for index, power_w in asked.told.items():
        assert power_w == pytest.approx(report.power_w()[index], rel=1e-9)

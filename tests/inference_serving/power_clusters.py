"""Clusters with a power block whose every number is different, so that a mix-up shows."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusters import LinearLatency, cluster_file, simulate

from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.power.report import EnergyReport
from inference_serving.power_model import PowerModel
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig

SECOND = 1_000_000_000
POWER: dict[str, Any] = {
    "base_node_power": 100,
    "npu": {"H100": {"idle_power": 20, "standby_power": 50, "active_power": 300, "standby_duration": 2}},
    "cpu": {"idle_power": 10, "active_power": 110, "util": 0.2},
    "dram": {"dimm_size": 48, "idle_power": 3, "energy_per_bit": 6},
    "link": {"num_links": 2, "idle_power": 4, "energy_per_bit": 5},
    "nic": {"num_nics": 3, "idle_power": 7},
    "storage": {"num_devices": 5, "idle_power": 1.5},
}
# 128 GB are three DIMMs of 48 GB
BASE_W = {
    "base_node": 100,
    "cpu": 10 + 0.2 * 100,
    "dram": 3 * 3,
    "link": 2 * 4,
    "nic": 3 * 7,
    "storage": 5 * 1.5,
}
RUNNING_CPU_W = (0.7 - 0.2) * 100
IDLE_W, STANDBY_W, ACTIVE_W = 20, 50, 300


def power_block(**changes: dict[str, Any] | float) -> dict[str, Any]:
    """The block with some fields of some parts changed."""
    block = copy.deepcopy(POWER)
    for part, change in changes.items():
        if isinstance(change, dict):
            (block[part]["H100"] if part == "npu" else block[part]).update(change)
        else:
            block[part] = change
    return block


def powered_file(
    folder: Path, sections: Sequence[dict[str, Any]], block: dict[str, Any] | None = None
) -> Path:
    """Write a one-node cluster config with a power block."""
    file = cluster_file(folder, sections)
    config = json.loads(file.read_text())
    config["nodes"][0]["power"] = POWER if block is None else block
    file.write_text(json.dumps(config))
    return file


def powered_cluster(
    folder: Path,
    sections: Sequence[dict[str, Any]],
    block: dict[str, Any] | None = None,
    config: SimulationConfig | None = None,
) -> Cluster:
    """Write and load a one-node cluster config with a power block."""
    return load_cluster(powered_file(folder, sections, block), config or SimulationConfig())


def energy_of(
    cluster: Cluster, workload: Sequence[RequestSpec], interval_ns: int = SECOND, step_overhead_ns: int = 0
) -> EnergyReport:
    """Simulate with the test latencies and return the run's energy."""
    power = PowerModel(cluster, interval_ns)
    simulate(cluster, workload, None, [power], LinearLatency(step_overhead_ns=step_overhead_ns))
    return power.report()

"""Clusters whose host memory computes, on a device of round numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusters import cluster_file

from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.settings import SimulationConfig

OFFLOADED = SimulationConfig(attn_offloading=True)
INTERLEAVED = SimulationConfig(attn_offloading=True, sub_batch_interleaving=True)
HEAD_TOKEN_NS, HEAD_FIXED_NS = 10, 100
"""Attention of one K/V head of the tiny model (64 bytes a token) in one channel."""
LATENCY_NS = 10
"""Of an access to host memory: the device's, as the config gives none."""
INI = f"""
[dram_structure]
columns = 1024
device_width = 16
BL = 8
[timing]
tCK = 0.5
CL = {2 * LATENCY_NS}
tRCD = 20
tRP = 20
tCCD_L = 8
[power]
VDD = 1.2
IDD2N = 50
IDD4R = 250
[system]
channel_size = 1
bus_width = 64
[other]
data_rate = 64000
idle_power = 1000
peak_power = 3000
[pim]
attention_ns_per_token = {64 * HEAD_TOKEN_NS}
attention_fixed_ns = {64 * HEAD_FIXED_NS}
"""


def pim_file(
    folder: Path, sections: Sequence[dict[str, Any]], channels: int = 8, nodes: int = 1, **node: Any
) -> Path:
    """Write a cluster config whose nodes, all alike, have ``channels`` channels of 1 MiB."""
    device = folder / "device.ini"
    device.write_text(INI)
    file = cluster_file(folder, sections)
    config = json.loads(file.read_text())
    (first,) = config["nodes"]
    first["cpu_mem"] |= {"mem_size": channels / 1024, "pim_config": str(device)}
    file.write_text(json.dumps({**config, "num_nodes": nodes, "nodes": [{**first, **node}] * nodes}))
    return file


def pim_cluster(
    folder: Path,
    sections: Sequence[dict[str, Any]],
    channels: int = 8,
    config: SimulationConfig = OFFLOADED,
    **node: Any,
) -> Cluster:
    """Write and load such a cluster, with attention offloaded."""
    return load_cluster(pim_file(folder, sections, channels, **node), config)

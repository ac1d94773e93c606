"""Clusters with pipeline stages for the tests, and the times of their stages by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusters import TINY_MODEL, cluster_file, instance

from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.settings import SimulationConfig

BLOCKS, BLOCK_LAYERS, HIDDEN = 6, 11, 64
GIB = 1 << 30
HOP_BYTES_PER_TOKEN = 2 * HIDDEN * 2  # hidden states and residual, 2 bytes an element
KV_BYTES_PER_TOKEN = 2 * 4 * 16 * 2 * BLOCKS  # K and V, 4 heads of 16 elements of 2 bytes


def pp_instance(
    folder: Path,
    stages: int,
    tp_size: int = 1,
    pd_type: str | None = None,
    partition: Sequence[int] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """An instance of a model with six blocks in ``stages`` stages, with plenty of room for KV."""
    model = folder / "six_blocks.json"
    model.write_text(json.dumps({**TINY_MODEL, "num_hidden_layers": BLOCKS}))
    section = instance(folder, tp_size * stages, pd_type, kv_tokens=100_000, **extra)
    return {
        **section,
        "model_name": str(model),
        "npu_group": stages,
        "pp_layer_partition": list(partition) if partition else None,
    }


def pp_cluster(
    folder: Path,
    instances: Sequence[dict[str, Any]],
    config: SimulationConfig | None = None,
    **top: Any,
) -> Cluster:
    """Write and load a cluster of such instances; links of 112 GB/s without latency unless ``top`` says otherwise."""
    return load_cluster(cluster_file(folder, instances, **top), config or SimulationConfig())


def stage_ns(tokens: int, attention_ns: int, blocks: int, *, first: bool = False, last: bool = False) -> int:
    """Time of one stage on one NPU with the test latencies; one sequence, so one token goes through lm_head."""
    layer_ns = 1000 + 10 * tokens
    edges_ns = first * (int(4 * tokens / 256) + layer_ns) + last * (layer_ns + 1000 + 10)
    return blocks * (BLOCK_LAYERS * layer_ns + attention_ns) + edges_ns


def hop_ns(tokens: int, link_gbps: float = 112, latency_ns: float = 0, tp_size: int = 1) -> int:
    """Time of the activations from one stage to the next."""
    return int(latency_ns + HOP_BYTES_PER_TOKEN * tokens / tp_size / (link_gbps * GIB) * 1e9)

"""Small clusters and workloads for the tests: a tiny model on a card whose latencies are simple formulas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_serving.cluster import Cluster, InstanceSpec
from inference_serving.config_builder import load_cluster
from inference_serving.host_overhead import HostOverhead
from inference_serving.prefill_costs import PrefillCosts
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import RunObserver, Simulation
from llm_profile.latency import Source

TINY_MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
}
KV_BYTES_PER_TOKEN = 2 * 4 * 16 * 2 * 2  # K and V, 4 heads of 16 elements of 2 bytes, 2 layers
MODEL_BYTES = 230_100  # a little more than the weights

# the layers of a block in order, as the published text trace names them
BLOCK = (
    "input_layernorm",
    "q_proj",
    "k_proj",
    "v_proj",
    "rope",
    "attn",
    "o_proj",
    "post_layernorm",
    "gate_proj",
    "up_proj",
    "act_fn",
    "down_proj",
)


@dataclass
class LinearLatency:
    """Every layer costs 1000 ns and 10 ns a token; attention 1 ns per pair of query and key."""

    name: str = "test"
    step_overhead_ns: int = 0

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return 1000 + 10 * tokens

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        pairs = (prefill_q * (prefill_context + prefill_q)).sum() + decode_kv.sum()
        return 500 + int(pairs)

    def source(self, layer: str, tokens: int) -> Source:
        return Source.ESTIMATED

    def attention_source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        return Source.ESTIMATED


def lone_costs(spec: InstanceSpec) -> PrefillCosts:
    """Prefill times of an instance whose iterations cost nothing but their layers."""
    return PrefillCosts(spec, LinearLatency(), HostOverhead(0, 0), lambda trace: 0)


def instance(
    folder: Path, npus: int = 1, pd_type: str | None = None, kv_tokens: int = 4096, **extra: Any
) -> dict[str, Any]:
    """An instance section with room for about ``kv_tokens`` tokens of KV on each NPU."""
    model = folder / "tiny.json"
    if not model.exists():
        model.write_text(json.dumps(TINY_MODEL))
    usable = MODEL_BYTES + kv_tokens * KV_BYTES_PER_TOKEN
    return {
        "model_name": str(model),
        "hardware": "H100",
        "npu_mem": {"mem_size": usable / 2**30 / 0.9, "mem_bw": 3350, "mem_latency": 0},
        "npu_num": npus,
        "npu_group": 1,
        "pd_type": pd_type,
        **extra,
    }


def cluster_file(folder: Path, instances: Sequence[dict[str, Any]], **top: Any) -> Path:
    """Write a one-node cluster config."""
    node = {
        "num_instances": len(instances),
        "cpu_mem": {"mem_size": 128, "mem_bw": 256, "mem_latency": 0},
        "instances": list(instances),
    }
    config = {"num_nodes": 1, "link_bw": 112, "link_latency": 0, "nodes": [node], **top}
    file = folder / "cluster.json"
    file.write_text(json.dumps(config))
    return file


def make_cluster(
    folder: Path, instances: Sequence[dict[str, Any]], config: SimulationConfig | None = None
) -> Cluster:
    """Write and load a one-node cluster config."""
    return load_cluster(cluster_file(folder, instances), config or SimulationConfig())


def requests(*lengths: tuple[int, int], gap_ns: int = 0) -> list[RequestSpec]:
    """Requests of (input, output) tokens that arrive ``gap_ns`` apart."""
    return [
        RequestSpec(request_id=number, arrival_ns=number * gap_ns, input_tokens=p, output_tokens=o)
        for number, (p, o) in enumerate(lengths)
    ]


def simulate(
    cluster: Cluster,
    workload: Sequence[RequestSpec],
    config: SimulationConfig | None = None,
    observers: Sequence[RunObserver] = (),
    latency: LinearLatency | None = None,
) -> Simulation:
    """Run a workload with the test latencies."""
    latencies = {spec.instance_id: latency or LinearLatency() for spec in cluster.instances}
    simulation = Simulation(cluster, workload, config or SimulationConfig(), latencies, observers)
    simulation.run()
    return simulation

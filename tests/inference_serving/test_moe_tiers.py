"""Mixture of experts and a second tier of prefixes; names of layers in a placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import instance, make_cluster, simulate
from moe_clusters import BLOCKS, HIDDEN, MoeLatency, moe_instance
from test_kv_tiers import CHUNK, Bytes, caching, prompts
from test_trace_generator import batch

from astra_sim.input_error import InputError
from inference_serving.gate_function import Balanced
from inference_serving.memory_places import MemoryId, spare_bytes
from inference_serving.placement import CPU, NPU
from inference_serving.trace_generator import TraceGenerator
from inference_serving.trace_shape import KvMoveKind

KV_BYTES_PER_TOKEN = 2 * HIDDEN * BLOCKS * 2
LOAD = KvMoveKind("kv_load", CPU)
STORE = KvMoveKind("kv_store", CPU)


def moe(folder: Path, npus: int = 1, **extra: Any):
    return make_cluster(folder, [moe_instance(folder, npus, **extra)])


def test_a_placement_that_says_npu_everywhere_changes_nothing(tmp_path):
    placement = {"default": {"weights": "npu"}, "layers": {"gate": {}, "experts": {"weights": "npu"}}}
    assert moe(tmp_path, placement=placement).instances == moe(tmp_path).instances


def test_a_layer_of_dense_blocks_is_unknown(tmp_path):
    known = "o_proj, post_layernorm, gate, experts, final_layernorm, lm_head"
    with pytest.raises(InputError, match=f"'up_proj' is not a layer; layers are embedding, .*{known}"):
        moe(tmp_path, placement={"layers": {"up_proj": {"weights": "npu"}}})


def test_a_dense_model_elsewhere_may_be_beside_a_mixture_of_experts(tmp_path):
    cpu = {"default": {"weights": "cpu"}}
    both = make_cluster(tmp_path, [instance(tmp_path, placement=cpu), moe_instance(tmp_path)])
    alone = make_cluster(tmp_path, [instance(tmp_path, placement=cpu)])
    assert both.instances[0] == alone.instances[0]
    assert set(both.instances[1].placement.weights) == {NPU}
    assert spare_bytes(both) == spare_bytes(alone)
    assert spare_bytes(both)[MemoryId(CPU)] < both.nodes[0].cpu_mem_bytes


@pytest.mark.parametrize(("npus", "ep_size"), [(1, 1), (2, 1), (2, 2)])
def test_prefixes_come_back_from_host_memory(tmp_path, npus, ep_size):
    """The NPU holds one prompt, so the second overwrites the first, which the pool still has."""
    prompt, other = list(range(100)), list(range(200, 300))
    memory = {"mem_size": 1, "mem_bw": 3350, "mem_latency": 0, "kv_blocks": 25}
    section = moe_instance(tmp_path, npus, ep_size=ep_size, npu_mem=memory)
    config, moved = caching(), Bytes()
    cluster = make_cluster(tmp_path, [section], config)
    run = simulate(cluster, prompts(prompt, other, prompt), config, [moved], MoeLatency())
    found = {request.request_id: request.storage_hit_tokens for request in run.finished}
    assert found == {0: 0, 1: 0, 2: 3 * CHUNK}
    assert moved.moved == {
        LOAD: 3 * CHUNK * KV_BYTES_PER_TOKEN // npus,
        STORE: 6 * CHUNK * KV_BYTES_PER_TOKEN // npus,
    }


def test_kv_that_moves_leaves_the_sizes_of_collectives_alone(tmp_path):
    (spec,) = moe(tmp_path, 2, ep_size=2).instances
    routing = Balanced(spec.model.num_experts, spec.model.num_experts_per_tok, np.random.default_rng(0))
    generator = TraceGenerator(spec, MoeLatency(), routing)
    plain = generator.synthesize_trace(batch((30, 0)), {}, {})
    moving = generator.synthesize_trace(batch((30, 0)), {}, {}, {LOAD: 1234, STORE: 5678})
    assert moving.sizes.tolist() == [*plain.sizes.tolist(), 1234, 5678]
    names = [row.name for row in moving.rows()]
    assert names == ["kv_load", *(row.name for row in plain.rows()), "kv_store"]

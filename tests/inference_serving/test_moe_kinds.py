"""Models with blocks of two kinds, dense and with experts, of which some are shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import make_cluster, requests, simulate
from moe_clusters import EXPERTS, HIDDEN, PER_TOKEN, WIDTH, MoeLatency, moe_instance
from test_trace_generator import batch

from astra_sim import CollectiveKind, NodeKind
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.gate_function import Random
from inference_serving.graph_generator import build_graphs
from inference_serving.host_overhead import HostOverhead
from inference_serving.layer_group import layer_groups
from inference_serving.output import collect
from inference_serving.prefill_costs import PrefillCosts, SerialTimes
from inference_serving.shape_builder import build_shape
from inference_serving.trace_generator import TraceGenerator
from inference_serving.trace_shape import DURATION_SLOT
from llm_profile.latency import Source

BLOCKS, DENSE_BLOCKS, MLP = 5, 2, 128
LATENT, ROTATED, NOPE, VALUE, HEADS = 32, 8, 16, 16, 4
DEEPSEEK = {
    "model_type": "deepseek_v2",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "kv_lora_rank": LATENT,
    "qk_rope_head_dim": ROTATED,
    "qk_nope_head_dim": NOPE,
    "v_head_dim": VALUE,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": PER_TOKEN,
    "moe_intermediate_size": WIDTH,
    "first_k_dense_replace": DENSE_BLOCKS,
}
ATTENTION = (
    "input_layernorm",
    "q_proj",
    "kv_a_proj",
    "kv_a_layernorm",
    "rope",
    "kv_b_proj",
    "attn",
    "o_proj",
)
DENSE_BLOCK = (*ATTENTION, "post_layernorm", "gate_proj", "up_proj", "act_fn", "down_proj")
MOE_BLOCK = (*ATTENTION, "post_layernorm", "shared_experts", "gate", "experts")
ROW = HIDDEN * 2  # bytes of a token's hidden state


def deepseek(folder: Path, npus: int = 1, pd_type: str | None = None, **extra: Any) -> dict[str, Any]:
    model = folder / "tiny_deepseek.json"
    model.write_text(json.dumps(DEEPSEEK))
    memory = {"npu_mem": {"mem_size": 1, "mem_bw": 3350}}
    return moe_instance(folder, npus, pd_type, **memory | extra) | {"model_name": str(model)}


def cluster_of(folder: Path, npus: int = 1, **extra: Any) -> Cluster:
    return make_cluster(folder, [deepseek(folder, npus, **extra)])


def test_each_block_has_its_own_rows(tmp_path):
    (spec,) = cluster_of(tmp_path).instances
    blocks = [*DENSE_BLOCK * DENSE_BLOCKS, *MOE_BLOCK * (BLOCKS - DENSE_BLOCKS)]
    assert [row.layer for row in build_shape(spec).rows] == [
        "embedding",
        *blocks,
        "final_layernorm",
        "lm_head",
    ]


def test_a_prompt_alone_takes_the_layers_of_both_kinds(tmp_path):
    """20 tokens: 12 dense layers in a dense block, 10 and the experts in the others, attention in all."""
    dense_ns, experts_ns = 1000 + 10 * 20, EXPERTS * 300 + 7 * 20 * PER_TOKEN
    both_ns = DENSE_BLOCKS * 12 * dense_ns + (BLOCKS - DENSE_BLOCKS) * (10 * dense_ns + experts_ns)
    layers_ns = both_ns + BLOCKS * (500 + 20**2) + 2 * dense_ns + 1010
    cluster = cluster_of(tmp_path)
    run = simulate(cluster, requests((20, 1)), latency=MoeLatency())
    assert 0 <= run.finished[0].end_ns - layers_ns <= 2
    shares = collect(cluster, run).summary.instances[0].provenance
    assert shares[Source.MEASURED] == pytest.approx((BLOCKS - DENSE_BLOCKS) * experts_ns / layers_ns)


def collectives(folder: Path, ep_size: int) -> list[tuple[CollectiveKind, int]]:
    """Kinds and sizes of an iteration of 20 tokens on two ranks."""
    (spec,) = cluster_of(folder, 2, ep_size=ep_size).instances
    trace = TraceGenerator(spec, MoeLatency()).synthesize_trace(batch((20, 0)), {}, {})
    first, second = (
        [
            (one.collective, int(trace.sizes[one.size_slot]))
            for one in graph.nodes
            if one.kind is NodeKind.COLL
        ]
        for graph in build_graphs(trace.shape)
    )
    assert first == second
    return first


def test_split_experts_and_shared_ones_end_in_one_all_reduce(tmp_path):
    assert collectives(tmp_path, 1) == [(CollectiveKind.ALL_REDUCE, 20 * ROW)] * 2 * BLOCKS


def test_spread_experts_have_their_all_to_alls_where_there_are_experts(tmp_path):
    reduced = (CollectiveKind.ALL_REDUCE, 20 * ROW)
    around = (CollectiveKind.ALL_TO_ALL, 20 * PER_TOKEN // 2 * ROW)
    with_experts = [reduced, around, around, (CollectiveKind.ALL_GATHER, 10 * ROW)]
    dense = [reduced, reduced]
    assert collectives(tmp_path, 2) == dense * DENSE_BLOCKS + with_experts * (BLOCKS - DENSE_BLOCKS)


@pytest.mark.parametrize(("ep_size", "tokens"), [(1, 21), (2, 11)])
def test_a_rank_with_whole_experts_runs_the_shared_ones_for_its_own_tokens(tmp_path, ep_size, tokens):
    (spec,) = cluster_of(tmp_path, 2, ep_size=ep_size).instances
    trace = TraceGenerator(spec, MoeLatency()).synthesize_trace(batch((21, 0)), {}, {})
    assert trace.durations_ns[DURATION_SLOT["shared_experts"]] == 1000 + 10 * tokens
    assert trace.durations_ns[DURATION_SLOT["gate"]] == 1000 + 10 * 21


def test_whole_shared_experts_are_on_every_rank(tmp_path):
    split, spread = (cluster_of(tmp_path, 2, ep_size=ep).instances[0].memory.weight_bytes for ep in (1, 2))
    shared = 3 * HIDDEN * WIDTH
    assert spread - split == 2 * (BLOCKS - DENSE_BLOCKS) * (shared - shared // 2)
    attention = (
        HIDDEN * (LATENT + ROTATED)
        + LATENT
        + (HIDDEN * HEADS * (NOPE + ROTATED) + LATENT * HEADS * (NOPE + VALUE) + HEADS * VALUE * HIDDEN) // 2
    )
    experts = (EXPERTS * 3 * HIDDEN * WIDTH + shared) // 2 + HIDDEN * EXPERTS
    dense = 3 * HIDDEN * MLP // 2
    blocks = BLOCKS * (attention + 2 * HIDDEN) + (BLOCKS - DENSE_BLOCKS) * experts + DENSE_BLOCKS * dense
    assert split == 2 * (blocks + 256 * HIDDEN + HIDDEN)


def test_draws_are_shared_out_among_blocks_with_experts(tmp_path):
    shape = build_shape(cluster_of(tmp_path).instances[0], draws=Random.draws)
    assert [row.draw for row in shape.rows if row.layer == "experts"] == [2, 3, 0]
    assert shape.blocks_of_draw.tolist() == [1, 0, 1, 1]


def test_layer_groups_are_slices_of_the_iteration(tmp_path):
    (spec,) = cluster_of(tmp_path, 2).instances
    cut = [row for group in layer_groups(BLOCKS, 3) for row in build_shape(spec, part=group).rows]
    assert tuple(cut) == build_shape(spec).rows


@pytest.mark.parametrize(("npus", "ep_size"), [(1, 1), (2, 1), (2, 2)])
def test_a_batch_of_prompts_takes_what_was_predicted(tmp_path, npus, ep_size):
    cluster = cluster_of(tmp_path, npus, ep_size=ep_size)
    costs = PrefillCosts(cluster.instances[0], MoeLatency(), HostOverhead(0, 0), SerialTimes(cluster).ns)
    run = simulate(cluster, requests((10, 1), (33, 1), (7, 1)), latency=MoeLatency())
    assert {one.end_ns for one in run.finished} == {costs.batch_ns([(10, 0), (33, 0), (7, 0)])}
    parts = [costs.group_ns(64, 5, group, BLOCKS) for group in range(BLOCKS)]
    assert sum(parts) == costs.batch_ns([(64, 5)])


def test_each_decode_rank_gets_the_whole_latent_vector(tmp_path):
    sections = [deepseek(tmp_path, 1, "prefill"), deepseek(tmp_path, 2, "decode")]
    cluster = make_cluster(tmp_path, sections)
    prefill, decode = cluster.instances
    trace = TraceGenerator(prefill, MoeLatency()).synthesize_trace(batch((20, 0)), {1: 20}, {1: decode})
    ready = [row for row in trace.shape.rows if row.kv_ready]
    assert len(ready) == BLOCKS
    for row in ready:
        assert trace.shape.kv_sent_bytes(row, trace.sizes) == 2 * 20 * (LATENT + ROTATED) * 2
    run = simulate(cluster, requests((20, 3), (64, 2)), latency=MoeLatency())
    assert len(run.finished) == 2


def test_data_parallel_groups_serve_both_kinds(tmp_path):
    sections = [deepseek(tmp_path, 2, ep_size=4, dp_group="all") for _ in range(2)]
    run = simulate(make_cluster(tmp_path, sections), requests((30, 4), (9, 2), (50, 1)), latency=MoeLatency())
    assert len(run.finished) == 3


def test_shared_experts_that_cannot_be_split_are_refused(tmp_path):
    facts = DEEPSEEK | {
        "n_shared_experts": 0,
        "shared_expert_intermediate_size": 33,
        "model_type": "qwen2_moe",
    }
    section = deepseek(tmp_path, 2)
    (tmp_path / "tiny_deepseek.json").write_text(json.dumps(facts | {"kv_lora_rank": 0, "head_dim": 16}))
    with pytest.raises(
        InputError, match=r"npu_num: 2: .* has experts of width 33, which 2 NPUs cannot share"
    ):
        make_cluster(tmp_path, [section])


def test_latent_kv_of_a_request_fills_blocks_of_its_size(tmp_path):
    (spec,) = cluster_of(tmp_path, 2).instances
    assert spec.memory.kv_bytes_per_block == 16 * (LATENT + ROTATED) * 2 * BLOCKS
    assert np.isclose(spec.memory.usable_bytes, 0.9 * 2**30)

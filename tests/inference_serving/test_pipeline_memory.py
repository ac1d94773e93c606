"""Where a model in stages lies: cuts, weights and KV blocks of each stage, weights and KV elsewhere, prefixes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from clusters import requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_clusters import BLOCKS, KV_BYTES_PER_TOKEN, hop_ns, pp_cluster, pp_instance, stage_ns
from run_invariants import check_invariants

from inference_serving.memory_model import (
    Precision,
    plan_memory,
    prefetch_buffer_bytes,
    weight_bytes_by_place,
)
from inference_serving.pipeline.memory import Layout, tightest_plan
from inference_serving.pipeline.stage import even_partition, make_stages
from inference_serving.placement import CPU, PlacementSection, all_on_npu, resolve
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SchedulerSettings, SimulationConfig
from llm_profile.layers import BLOCK_LAYERS, layer_shape, weight_bytes
from llm_profile.model_config import load_model_config

LLAMA = load_model_config("meta-llama/Llama-3.1-8B")
DEEPSEEK = load_model_config("deepseek-ai/DeepSeek-V2-Lite")
MIXTRAL = load_model_config("mistralai/Mixtral-8x7B-v0.1")


def vllm_indices(layers: int, rank: int, size: int) -> tuple[int, int]:
    """The rule of vLLM's get_pp_indices in words of its own: the remainder goes backwards from the last but one."""
    parts = [layers // size] * size
    for place in range(layers % size):
        parts[size - 2 - place] += 1
    return sum(parts[:rank]), sum(parts[: rank + 1])


@given(st.integers(1, 130), st.integers(1, 16))
def test_blocks_are_dealt_as_vllm_deals_them(layers, size):
    if size > layers:
        with pytest.raises(ValueError, match=f"{layers} blocks cannot be cut into {size} stages"):
            even_partition(layers, size)
        return
    stages = make_stages(even_partition(layers, size))
    assert [(one.first_block, one.stop_block) for one in stages] == [
        vllm_indices(layers, rank, size) for rank in range(size)
    ]
    assert [one.is_first for one in stages] == [rank == 0 for rank in range(size)]
    assert [one.is_last for one in stages] == [rank == size - 1 for rank in range(size)]


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL, DEEPSEEK], ids=["dense", "experts", "two kinds"])
@pytest.mark.parametrize("shares", [(0.5,), (0.03, 0.6), (0.25, 0.5, 0.75)])
def test_weights_of_all_stages_are_those_of_the_model(model, shares):
    cuts = [0, *(max(int(share * model.num_hidden_layers), 1) for share in shares), model.num_hidden_layers]
    partition = [stop - start for start, stop in pairwise(cuts)]

    def weights(part) -> int:
        return plan_memory(model, 2, Precision(), 16, 80, 0.9, part=part).weight_bytes

    assert sum(map(weights, make_stages(partition))) == weight_bytes(model, 2)


def test_tied_embeddings_are_on_the_first_and_on_the_last_stage():
    tied = LLAMA.model_copy(update={"tie_word_embeddings": True})
    first, last = (
        plan_memory(tied, 1, Precision(), 16, 80, 0.9, part=part).weight_bytes
        for part in make_stages((16, 16))
    )
    embedding = 2 * layer_shape(tied, "embedding", 1).weight_elements
    assert first + last == weight_bytes(tied) + embedding


def test_the_tightest_stage_decides_how_many_blocks_there_are():
    """Llama-3.1-8B in 12 GB and 2 stages of 8 and 24 blocks: 24 blocks and lm_head leave the least."""
    layout = Layout(LLAMA, 1, all_on_npu(LLAMA), 1, partition=(8, 24))
    plan, stage = tightest_plan(layout, Precision(), 16, 16, 0.9)
    block = 2 * sum(
        layer_shape(LLAMA, layer, 1).weight_elements
        for layer in ("input_layernorm", "q_proj", "k_proj", "v_proj", "o_proj", "post_layernorm")
    ) + 2 * sum(
        layer_shape(LLAMA, layer, 1).weight_elements for layer in ("gate_proj", "up_proj", "down_proj")
    )
    edge = 2 * 4096 * (128_256 + 1)
    assert (plan.weight_bytes, stage) == (24 * block + edge, " in stage 1")
    assert plan.kv_blocks == (int(16 * 2**30 * 0.9) - plan.weight_bytes) // (16 * 24 * 2 * 1024 * 2)


def test_two_stages_of_half_the_memory_hold_what_does_not_fit_on_one(tmp_path):
    whole = pp_instance(tmp_path, 1)
    half = pp_instance(tmp_path, 2)
    for section in (whole, half):
        section["model_name"] = "meta-llama/Llama-3.1-8B"
        section["npu_mem"]["mem_size"] = 12
    with pytest.raises(Exception, match=r"mem_size: 12 GB: .* over 1 NPU\(s\) needs 14.958 GB"):
        pp_cluster(tmp_path, [whole])
    assert pp_cluster(tmp_path, [half]).instances[0].memory.kv_blocks > 3000
    half["pp_layer_partition"] = [1, 31]
    with pytest.raises(Exception, match=r"over 2 NPU\(s\) in stage 1 needs 13.573 GB for weights"):
        pp_cluster(tmp_path, [half])


def test_weights_elsewhere_are_loaded_by_the_stage_that_runs_them(tmp_path):
    """Blocks 0-3 come from the host, through a buffer of one block; two stages of three blocks."""
    rules = {"blocks": [{"blocks": "0-3", "weights": "cpu"}], "prefetch_blocks": 0}
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 2, placement=rules)])
    spec, loads = cluster.instances[0], WeightLoads()
    block = 2 * sum(layer_shape(spec.model, layer, 1).weight_elements for layer in BLOCK_LAYERS)
    parts = [
        (
            weight_bytes_by_place(spec.model, 1, spec.precision, spec.placement, part=stage)[CPU],
            prefetch_buffer_bytes(spec.model, 1, spec.precision, spec.placement, part=stage),
        )
        for stage in spec.stages()
    ]
    assert parts == [(3 * block, block), (block, block)]
    simulate(cluster, requests((10, 1)), observers=[loads])
    assert loads.bytes == {0: 3 * block, 1: block}


class WeightLoads:
    """Adds up, by stage, what every iteration loads of weights."""

    def __init__(self) -> None:
        self.bytes: Counter[int] = Counter()

    def on_submit(self, instance, trace, ticket) -> None:
        for row in trace.shape.rows:
            if row.weights is not None:
                self.bytes[trace.shape.stage.part] += int(trace.sizes[row.weights.slot])

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        pass


def test_a_stage_whose_kv_is_all_elsewhere_does_not_limit_the_others():
    section = PlacementSection.model_validate({"blocks": [{"blocks": "0-15", "kv_loc": "cpu"}]})
    placement = resolve(section, LLAMA)
    plan, stage = tightest_plan(Layout(LLAMA, 1, placement, 1, (16, 16)), Precision(), 16, 40, 0.9)
    assert stage == " in stage 1"
    assert plan.kv_bytes_per_block == 16 * 16 * 2 * 1024 * 2


class Moves:
    """Adds up, by stage, what every iteration loads and stores of KV."""

    def __init__(self) -> None:
        self.moved: Counter[tuple[int, str]] = Counter()

    def on_submit(self, instance, trace, ticket) -> None:
        for move in trace.shape.moves:
            stage = 0 if trace.shape.stage is None else trace.shape.stage.part
            self.moved[stage, move.kind.name] += int(trace.sizes[move.access.slot]) * instance.spec.tp_size

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        pass


def test_a_hit_in_the_second_tier_is_loaded_by_each_stage_for_its_blocks(tmp_path):
    config = SimulationConfig(
        SchedulerSettings(enable_prefix_caching=True), prefix_storage="cpu", prefix_chunk_tokens=32
    )
    section = pp_instance(tmp_path, 2, partition=[4, 2])
    section["npu_mem"]["kv_blocks"] = 7  # the second prompt drives the first one out
    cluster = pp_cluster(tmp_path, [section], config)
    one, two = tuple(range(100)), tuple(range(500, 600))
    work = [RequestSpec(n, n * 10**9, 100, 1, input_token_ids=ids) for n, ids in enumerate((one, two, one))]
    moves = Moves()
    run = simulate(cluster, work, config, [moves])
    check_invariants(run, work)
    again = run.requests[2]
    assert (again.prefix_hit_tokens, again.storage_hit_tokens) == (0, 96)
    per_block = 96 * KV_BYTES_PER_TOKEN // BLOCKS
    assert {stage: moves.moved[stage, "kv_load"] for stage in (0, 1)} == {0: 4 * per_block, 1: 2 * per_block}
    assert {stage: moves.moved[stage, "kv_store"] for stage in (0, 1)} == {
        0: 8 * per_block,
        1: 4 * per_block,
    }
    # each stage waits for its own load before its first layer
    attention = 500 + 4 * 100
    loads = [int(blocks * per_block / 256) for blocks in (4, 2)]
    way = stage_ns(4, attention, 4, first=True) + hop_ns(4) + stage_ns(4, attention, 2, last=True)
    assert again.end_ns - again.arrival_ns == way + sum(loads)


@settings(max_examples=40)
@given(st.data())
def test_invariants_hold_with_prefixes_and_kv_that_gives_way_to_the_host(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tiers")
    stages = data.draw(st.integers(1, 4))
    storage = data.draw(st.sampled_from([None, "cpu"]))
    settings_ = SchedulerSettings(
        max_num_batched_tokens=64, enable_prefix_caching=True, block_size=data.draw(st.sampled_from([4, 16]))
    )
    config = SimulationConfig(settings_, prefix_storage=storage, prefix_chunk_tokens=16)
    placement = {"default": {"kv_evict_loc": data.draw(st.sampled_from(["npu", "cpu"]))}}
    section = pp_instance(folder, stages, placement=placement)
    section["npu_mem"]["kv_blocks"] = 160 // settings_.block_size
    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=110)
    work = [
        RequestSpec(number, number * 10_000, len(ids), 40, input_token_ids=tuple(ids))
        for number, ids in enumerate(data.draw(st.lists(prompts, min_size=2, max_size=8)))
    ]
    moves = Moves()
    run = simulate(pp_cluster(folder, [section], config), work, config, [moves])
    check_invariants(run, work)
    tiers = run.instances[0].tiers
    if tiers is not None and tiers.swaps:
        evicted = sum(size for (_, name), size in moves.moved.items() if name == "kv_evict")
        assert evicted == tiers.swap_statistics.evicted_tokens * KV_BYTES_PER_TOKEN


def test_what_is_on_its_way_counts_as_a_prefix_for_whoever_follows(tmp_path):
    """The second prompt goes through each stage after the first, so it finds the first one's blocks."""
    config = SimulationConfig(SchedulerSettings(max_num_batched_tokens=64, enable_prefix_caching=True))
    ids = tuple(range(64))
    work = [RequestSpec(number, 0, 64, 1, input_token_ids=ids) for number in range(2)]
    run = simulate(pp_cluster(tmp_path, [pp_instance(tmp_path, 2)], config), work, config)
    assert [request.prefix_hit_tokens for request in run.requests] == [0, 48]
    assert run.requests[1].end_ns > run.requests[0].end_ns

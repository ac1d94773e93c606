"""Specification of holding a workload against a cluster: what can never be served is an error before the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusters import instance, make_cluster, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.workload_check import fit_workload

FILE = Path("workload.jsonl")
CONTEXT = 4096  # of the test model


def cluster_of(folder: Path, *sections: dict, **scheduler) -> Cluster:
    config = SimulationConfig(scheduler=SchedulerSettings(**scheduler))
    return make_cluster(folder, sections or [instance(folder, kv_tokens=100_000)], config)


def fitted(cluster: Cluster, *lengths: tuple[int, int]) -> list[tuple[int, int]]:
    workload = fit_workload(FILE, requests(*lengths), cluster)
    return [(request.input_tokens, request.output_tokens) for request in workload]


def error_of(cluster: Cluster, *lengths: tuple[int, int]) -> str:
    with pytest.raises(InputError) as caught:
        fitted(cluster, *lengths)
    return str(caught.value)


def test_a_workload_that_fits_is_passed_on_unchanged(tmp_path, caplog):
    workload = requests((10, 20), (300, 1), gap_ns=5)
    assert fit_workload(FILE, workload, cluster_of(tmp_path)) == workload
    assert caplog.messages == []


# --- the model's context


def test_output_beyond_the_context_is_cut_there(tmp_path):
    lengths = [(CONTEXT - 6, 5), (CONTEXT - 6, 6), (CONTEXT - 6, 7), (CONTEXT - 1, 500)]
    assert fitted(cluster_of(tmp_path), *lengths) == [
        (CONTEXT - 6, 5),
        (CONTEXT - 6, 6),
        (CONTEXT - 6, 6),
        (CONTEXT - 1, 1),
    ]


def test_a_warning_says_how_many_outputs_were_cut(tmp_path, caplog):
    fitted(cluster_of(tmp_path), (CONTEXT - 6, 7), (10, 10), (10, CONTEXT))
    assert caplog.messages == [
        "workload.jsonl: the output of 2 request(s) is cut at the context of 4096 tokens"
    ]


@pytest.mark.parametrize("prompt", [CONTEXT, CONTEXT + 1])
def test_a_prompt_that_fills_the_context_is_an_error(tmp_path, prompt):
    assert error_of(cluster_of(tmp_path), (10, 1), (prompt, 1)) == (
        f"workload.jsonl: request 1: input_toks: {prompt}: the prompt must be shorter than the model's context "
        "of 4096 tokens"
    )


def test_the_shortest_context_of_the_cluster_counts(tmp_path):
    short = tmp_path / "short.json"
    long = instance(tmp_path, kv_tokens=100_000)
    short.write_text((tmp_path / "tiny.json").read_text().replace("4096", "512"))
    cluster = cluster_of(tmp_path, long, instance(tmp_path, kv_tokens=100_000) | {"model_name": str(short)})
    assert fitted(cluster, (500, 20)) == [(500, 12)]


# --- the KV cache


def kv_capacity(cluster: Cluster, instance_id: int = 0) -> int:
    spec = cluster.instances[instance_id]
    return spec.memory.kv_blocks * spec.scheduler.block_size


def test_a_request_that_fills_the_kv_cache_exactly_is_fine(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path, kv_tokens=320))
    capacity = kv_capacity(cluster)
    assert fitted(cluster, (capacity - 9, 10)) == [(capacity - 9, 10)]  # the last token needs no KV


def test_a_request_that_can_never_have_its_kv_is_an_error(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path, kv_tokens=320))
    capacity = kv_capacity(cluster)
    assert error_of(cluster, (10, 1), (capacity, 50)) == (
        f"workload.jsonl: request 1: input_toks: {capacity} prompt tokens and 49 generated ones need KV of "
        f"{capacity + 49} tokens, but instance 0 holds {capacity}; use more NPU memory or shorter requests"
    )


def test_the_kv_of_an_output_is_what_is_left_after_it_was_cut(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path, kv_tokens=CONTEXT + 64))
    assert fitted(cluster, (CONTEXT - 10, 5000)) == [(CONTEXT - 10, 10)]


def test_every_instance_must_be_able_to_hold_every_request(tmp_path):
    small, large = instance(tmp_path, kv_tokens=320), instance(tmp_path, kv_tokens=3200)
    cluster = cluster_of(tmp_path, large, small)
    assert f"but instance 1 holds {kv_capacity(cluster, 1)};" in error_of(cluster, (1000, 10))


def test_a_prefill_instance_needs_room_for_the_prompt_only(tmp_path):
    pair = [instance(tmp_path, 1, "prefill", 320), instance(tmp_path, 1, "decode", 3200)]
    cluster = cluster_of(tmp_path, *pair)
    prompt = kv_capacity(cluster)
    assert fitted(cluster, (prompt, 500)) == [(prompt, 500)]
    assert error_of(cluster, (prompt + 1, 500)) == (
        f"workload.jsonl: request 0: input_toks: {prompt + 1} prompt tokens need KV of {prompt + 1} tokens, "
        f"but instance 0 holds {prompt}; use more NPU memory or shorter requests"
    )


def test_a_decode_instance_needs_room_for_prompt_and_output(tmp_path):
    pair = [instance(tmp_path, 1, "prefill", 3200), instance(tmp_path, 1, "decode", 320)]
    cluster = cluster_of(tmp_path, *pair)
    capacity = kv_capacity(cluster, 1)
    assert error_of(cluster, (capacity, 50)) == (
        f"workload.jsonl: request 0: input_toks: {capacity} prompt tokens and 49 generated ones need KV of "
        f"{capacity + 49} tokens, but instance 1 holds {capacity}; use more NPU memory or shorter requests"
    )


def test_a_decode_instance_never_gets_a_request_of_one_output_token(tmp_path):
    pair = [instance(tmp_path, 1, "prefill", 3200), instance(tmp_path, 1, "decode", 320)]
    assert fitted(cluster_of(tmp_path, *pair), (3000, 1)) == [(3000, 1)]


# --- the token budget


def test_with_chunks_a_prompt_may_be_longer_than_the_token_budget(tmp_path):
    assert fitted(cluster_of(tmp_path, max_num_batched_tokens=16), (300, 5)) == [(300, 5)]


def test_without_chunks_prompt_and_output_must_fit_into_the_token_budget(tmp_path):
    """Because a preempted request is recomputed at its full length in one iteration."""
    cluster = cluster_of(tmp_path, max_num_batched_tokens=100, enable_chunked_prefill=False)
    assert fitted(cluster, (90, 11)) == [(90, 11)]
    assert error_of(cluster, (5, 5), (90, 50)) == (
        "workload.jsonl: request 1: input_toks: 90 prompt tokens and 49 generated ones must run in one iteration "
        "without chunked prefill, but instance 0 takes 100; raise max_num_batched_tokens"
    )


def test_without_chunks_a_prefill_instance_needs_the_budget_for_the_prompt_only(tmp_path):
    prefill = instance(tmp_path, 1, "prefill", max_num_batched_tokens=100, enable_chunked_prefill=False)
    cluster = cluster_of(tmp_path, prefill, instance(tmp_path, 1, "decode"))
    assert fitted(cluster, (100, 50)) == [(100, 50)]
    assert error_of(cluster, (101, 1)).startswith(
        "workload.jsonl: request 0: input_toks: 101 prompt tokens must run in one iteration"
    )


def test_without_chunks_and_without_a_token_budget_any_prompt_is_fine(tmp_path):
    cluster = cluster_of(tmp_path, max_num_batched_tokens=0, enable_chunked_prefill=False)
    assert fitted(cluster, (4000, 50)) == [(4000, 50)]


# --- generation only


def test_generation_only_and_prefill_instances_do_not_go_together(tmp_path):
    pair = [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")]
    cluster = cluster_of(tmp_path, *pair, skip_prefill=True)
    assert error_of(cluster, (10, 1)) == (
        f"{tmp_path / 'cluster.json'}: pd_type: --gen turns the prefill phase off, so there can be no prefill "
        "instance"
    )


def test_generation_only_is_fine_without_prefill_instances(tmp_path):
    assert fitted(cluster_of(tmp_path, skip_prefill=True), (10, 1)) == [(10, 1)]


# --- what passes


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 60)), min_size=1, max_size=8),
    st.sampled_from([[None], ["prefill", "decode"]]),
    st.booleans(),
    st.sampled_from([16, 128]),
)
def test_what_passes_the_check_is_served_to_the_end(tmp_path_factory, lengths, roles, chunked, budget):
    folder = tmp_path_factory.getbasetemp()
    config = SimulationConfig(
        scheduler=SchedulerSettings(enable_chunked_prefill=chunked, max_num_batched_tokens=budget)
    )
    cluster = make_cluster(folder, [instance(folder, 1, role, kv_tokens=128) for role in roles], config)
    served = []
    for request in requests(*lengths):
        try:
            served += fit_workload(FILE, [request], cluster)
        except InputError:
            continue
    assert len(simulate(cluster, served, config).finished) == len(served)  # INV-1, INV-13

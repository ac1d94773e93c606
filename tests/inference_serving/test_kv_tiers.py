"""KV beyond the NPUs: kept when a request gives way, found again as a prefix; its bytes, time and room (INV-16)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import KV_BYTES_PER_TOKEN, LinearLatency, instance, lone_costs, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.controller import EngineController
from inference_serving.instance import Instance
from inference_serving.layer_group import WHOLE_MODEL
from inference_serving.memory_places import MemoryId, spare_bytes
from inference_serving.placement import CPU, Place
from inference_serving.policies import prefill_policy_names
from inference_serving.request import Batch, Request
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation
from inference_serving.tiers.builder import make_tiers
from inference_serving.tiers.prefix_pool import ChunkKey, PrefixPool
from inference_serving.tiers.spare_memory import SpareMemory
from inference_serving.trace_generator import TraceGenerator
from inference_serving.trace_shape import KvMoveKind

BANDWIDTH = 2
HOST = MemoryId(CPU)
TO_CPU = {"default": {"kv_evict_loc": "cpu"}}
CHUNK = 32


def cluster_of(
    folder: Path,
    *instances: dict[str, Any],
    config: SimulationConfig | None = None,
    devices: int = 0,
    **host: Any,
) -> Cluster:
    """Instances on one node with a slow host memory, and perhaps a CXL pool of 1 GB devices."""
    cpu_mem = {"mem_size": 1, "mem_bw": BANDWIDTH, "mem_latency": 0} | host
    data: dict[str, Any] = {
        "num_nodes": 1,
        "link_bw": 112,
        "link_latency": 0,
        "nodes": [{"num_instances": len(instances), "cpu_mem": cpu_mem, "instances": list(instances)}],
    }
    if devices:
        data["cxl_mem"] = {"mem_size": 1, "mem_bw": BANDWIDTH, "mem_latency": 0, "num_devices": devices}
    file = folder / "cluster.json"
    file.write_text(json.dumps(data))
    return load_cluster(file, config or SimulationConfig())


class Bytes:
    """Adds up what the rows of a run's iterations move, by kind of row."""

    def __init__(self) -> None:
        self.moved: Counter[KvMoveKind] = Counter()

    def on_submit(self, instance, trace, ticket):
        for move in trace.shape.moves:
            self.moved[move.kind] += int(trace.sizes[move.access.slot])

    def on_iteration(self, *_):
        pass


def caching(sharing: bool = False, storage: str = "cpu", **scheduler: Any) -> SimulationConfig:
    settings = SchedulerSettings(enable_prefix_caching=True, block_size=4, **scheduler)
    return SimulationConfig(
        settings, prefix_storage=storage, prefix_sharing=sharing, prefix_chunk_tokens=CHUNK
    )


def prompts(*ids: list[int], gap_ns: int = 10**9, output: int = 1) -> list[RequestSpec]:
    return [
        RequestSpec(
            number,
            number * gap_ns,
            len(one),
            output,
            input_token_ids=tuple(one),
            output_token_ids=(7,) * output,
        )
        for number, one in enumerate(ids)
    ]


# --- what the engine makes of it


def iteration_ns(cluster: Cluster, moves: dict[KvMoveKind, int]) -> int:
    spec = cluster.instances[0]
    batch = Batch(np.array([10]), np.array([0]), 10, 10, 1)
    trace = TraceGenerator(spec, LinearLatency()).synthesize_trace(batch, {}, {}, moves)
    engine = EngineController(cluster)
    engine.submit(trace, 0)
    (done,) = engine.advance(None)
    return done.finish_ns


def test_evicted_and_loaded_kv_come_before_the_layers_one_after_the_other(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path))
    moves = {KvMoveKind("kv_evict", CPU): 4000, KvMoveKind("kv_load", CPU): 8000}
    assert iteration_ns(cluster, moves) - iteration_ns(cluster, {}) == (4000 + 8000) / BANDWIDTH


def test_loads_from_two_devices_overlap(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path), devices=2)
    moves = {KvMoveKind("kv_load", Place("cxl", device)): 8000 for device in range(2)}
    assert iteration_ns(cluster, moves) - iteration_ns(cluster, {}) == 8000 / BANDWIDTH


def test_an_iteration_ends_when_what_it_computed_is_stored(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path))
    stored = iteration_ns(cluster, {KvMoveKind("kv_store", CPU): 8000})
    # the ids of the sampled tokens, 4 bytes, are in front of the KV
    assert stored - iteration_ns(cluster, {}) == 8000 / BANDWIDTH


def test_rows_of_kv_come_first_and_stored_kv_last(tmp_path):
    spec = cluster_of(tmp_path, instance(tmp_path)).instances[0]
    batch = Batch(np.array([10]), np.array([0]), 10, 10, 1)
    kinds = [KvMoveKind(name, CPU) for name in ("kv_evict", "kv_load", "kv_store")]
    trace = TraceGenerator(spec, LinearLatency()).synthesize_trace(batch, {}, {}, dict.fromkeys(kinds, 64))
    rows = list(trace.rows())
    assert [row.name for row in (*rows[:3], rows[-1])] == ["kv_evict", "kv_load", "embedding_0", "kv_store"]
    assert (rows[1].input_loc, rows[1].input_bytes) == ("REMOTE:0", 64)
    assert (rows[0].output_loc, rows[0].output_bytes) == ("REMOTE:0", 64)


# --- preempted requests


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 60)), min_size=2, max_size=8),
    st.sampled_from(["fcfs", *prefill_policy_names()]),
    st.sampled_from([1, 3e-4]),
    st.booleans(),
)
def test_kv_that_gave_way_comes_back_whole_or_was_dropped(tmp_path_factory, lengths, policy, host_gb, ahead):
    folder = tmp_path_factory.mktemp("swap")
    ahead = ahead and policy == "fcfs"
    config = SimulationConfig(SchedulerSettings(scheduling_policy=policy, async_scheduling=ahead))
    section = instance(folder, kv_tokens=200, placement=TO_CPU)
    cluster = cluster_of(folder, section, config=config, mem_size=host_gb)
    observer = Bytes()
    simulation = simulate(cluster, requests(*lengths), config, [observer])
    tiers = simulation.instances[0].tiers
    assert tiers is not None
    swap = tiers.swap_statistics
    assert len(simulation.finished) == len(lengths)
    # scheduled ahead, the last token of a request that gives way may be on its way
    assert 0 <= swap.evicted_tokens - swap.reloaded_tokens <= (swap.dropped_tokens if ahead else 0)
    assert observer.moved.get(KvMoveKind("kv_evict", CPU), 0) == swap.evicted_tokens * KV_BYTES_PER_TOKEN
    assert observer.moved.get(KvMoveKind("kv_load", CPU), 0) == swap.reloaded_tokens * KV_BYTES_PER_TOKEN
    assert tiers._spare.free_bytes == spare_bytes(cluster)
    assert simulation.instances[0].kv_cache.used_blocks == 0


def test_reloaded_kv_is_not_computed_again(tmp_path):
    computed: dict[bool, int] = {}

    class Tokens(Bytes):
        def on_submit(self, instance, trace, ticket):
            computed[keeps] = computed.get(keeps, 0) + trace.tokens

    lengths = [(90, 60), (90, 60)]
    for keeps in (False, True):
        extra = {"placement": TO_CPU} if keeps else {}
        cluster = cluster_of(tmp_path, instance(tmp_path, kv_tokens=208, **extra))
        simulation = simulate(cluster, requests(*lengths), observers=[Tokens()])
        assert simulation.instances[0].scheduler.preemptions > 0
    assert computed[True] == sum(prompt + output - 1 for prompt, output in lengths)
    assert computed[False] > computed[True]


def test_kv_is_dropped_and_computed_again_where_there_is_no_room_for_it(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path, kv_tokens=208, placement=TO_CPU), mem_size=1e-6)
    simulation = simulate(cluster, requests((90, 60), (90, 60)))
    tiers = simulation.instances[0].tiers
    assert tiers is not None
    assert tiers.swap_statistics.evicted_tokens == 0 < tiers.swap_statistics.dropped_tokens
    assert len(simulation.finished) == 2


def test_kv_that_lives_where_it_is_evicted_to_does_not_move(tmp_path):
    placement = {"default": {"kv_loc": "cpu", "kv_evict_loc": "cpu"}}
    section = instance(tmp_path, placement=placement)
    section["npu_mem"]["kv_blocks"] = 13
    observer = Bytes()
    simulation = simulate(cluster_of(tmp_path, section), requests((90, 60), (90, 60)), observers=[observer])
    tiers = simulation.instances[0].tiers
    assert tiers is not None
    assert tiers.swap_statistics.reloaded_tokens > 0
    assert not observer.moved


# --- the second tier of the prefix cache


def key(number: int) -> ChunkKey:
    return ChunkKey("m", bytes([number]))


def test_a_pool_forgets_its_least_recently_used_chunks():
    pool = PrefixPool("p", [HOST], SpareMemory({HOST: 100}), 30)
    assert all(pool.store(key(number), 10) for number in range(3))
    pool.touch([key(0)])
    assert pool.store(key(3), 10)
    assert [key(number) in pool for number in range(4)] == [True, False, True, True]
    assert (pool.used_bytes, pool.evicted_chunks, pool.chunks) == (30, 1, 3)


def test_a_pool_takes_no_chunk_that_is_larger_than_it():
    pool = PrefixPool("p", [HOST], SpareMemory({HOST: 100}), 30)
    assert not pool.store(key(0), 31)
    assert pool.used_bytes == 0


def test_cached_prefixes_give_way_to_kv_that_must_be_kept():
    spare = SpareMemory({HOST: 100})
    pool = PrefixPool("p", [HOST], spare, 100)
    for number in range(10):
        pool.store(key(number), 10)
    assert not spare.take({HOST: 25})
    assert spare.keep({HOST: 25})
    assert (pool.chunks, spare.free_bytes[HOST]) == (7, 5)


def test_a_pool_over_devices_takes_an_equal_part_of_each():
    devices = [MemoryId(Place("cxl", device)) for device in range(4)]
    spare = SpareMemory(dict.fromkeys(devices, 100))
    PrefixPool("p", devices, spare, 400).store(key(0), 40)
    assert set(spare.free_bytes.values()) == {90}


def run(cluster: Cluster, workload: list[RequestSpec], config: SimulationConfig) -> tuple[Simulation, Bytes]:
    observer = Bytes()
    return simulate(cluster, workload, config, [observer]), observer


def test_another_instance_finds_what_one_has_computed_if_they_share(tmp_path):
    ids = list(range(100))
    for sharing in (False, True):
        config = caching(sharing)
        cluster = cluster_of(tmp_path, instance(tmp_path), instance(tmp_path), config=config)
        simulation, observer = run(cluster, prompts(ids, ids), config)
        found = [
            one.storage_hit_tokens for one in sorted(simulation.finished, key=lambda one: one.request_id)
        ]
        assert found == [0, 96 if sharing else 0]
        stored = 1 if sharing else 2
        chunks = 100 // CHUNK
        assert observer.moved[KvMoveKind("kv_store", CPU)] == stored * chunks * CHUNK * KV_BYTES_PER_TOKEN
        assert observer.moved[KvMoveKind("kv_load", CPU)] == found[1] * KV_BYTES_PER_TOKEN


def test_only_what_the_npu_lacks_is_loaded(tmp_path):
    config = caching()
    first, other = list(range(100)), list(range(1000, 1090))
    # room for one prompt: the second overwrites the tail of the first on the NPU
    cluster = cluster_of(tmp_path, instance(tmp_path, kv_tokens=112), config=config)
    simulation, observer = run(cluster, prompts(first, other, first), config)
    last = next(one for one in simulation.finished if one.request_id == 2)
    assert last.prefix_hit_tokens + last.storage_hit_tokens == 96
    assert last.storage_hit_tokens > 0
    assert observer.moved[KvMoveKind("kv_load", CPU)] == last.storage_hit_tokens * KV_BYTES_PER_TOKEN


def test_a_chunk_can_be_found_when_the_iteration_that_computes_it_has_ended(tmp_path):
    config = caching(sharing=True)
    cluster = cluster_of(tmp_path, instance(tmp_path), instance(tmp_path), config=config)
    simulation, _ = run(cluster, prompts(list(range(100)), list(range(100)), gap_ns=1), config)
    assert [one.storage_hit_tokens for one in simulation.finished] == [0, 0]


def test_generated_tokens_are_stored_too(tmp_path):
    config = caching()
    cluster = cluster_of(tmp_path, instance(tmp_path), config=config)
    _, observer = run(cluster, prompts(list(range(40)), output=30), config)
    assert observer.moved[KvMoveKind("kv_store", CPU)] == 2 * CHUNK * KV_BYTES_PER_TOKEN


def test_a_hit_in_the_second_tier_costs_its_load_and_saves_its_compute(tmp_path):
    config = caching(sharing=True)
    cluster = cluster_of(tmp_path, instance(tmp_path), instance(tmp_path), config=config)
    simulation, _ = run(cluster, prompts(list(range(100)), list(range(100))), config)
    cold, warm = sorted(simulation.finished, key=lambda one: one.request_id)
    spec = replace(cluster.instances[0])
    batch = Batch(np.array([4]), np.array([96]), 4, 4, 1)
    traces = TraceGenerator(spec, LinearLatency())
    engine = EngineController(cluster)
    engine.submit(traces.synthesize_trace(batch, {}, {}, {}), 0)
    (done,) = engine.advance(None)
    load_ns = 96 * KV_BYTES_PER_TOKEN // BANDWIDTH
    assert warm.end_ns - warm.arrival_ns == done.finish_ns + load_ns
    assert cold.end_ns > cold.arrival_ns


@settings(max_examples=15)
@given(st.data())
def test_room_and_bytes_are_conserved_with_everything_at_once(tmp_path_factory, data):
    """Small memories, shared prefixes, preemption to the host, two instances, any policy."""
    folder = tmp_path_factory.mktemp("tiers")
    sharing = data.draw(st.booleans())
    policy = data.draw(st.sampled_from(["fcfs", *prefill_policy_names()]))
    storage = data.draw(st.sampled_from(["cpu", "cxl"]))
    ahead = data.draw(st.booleans()) and policy == "fcfs"
    config = caching(sharing, storage, scheduling_policy=policy, async_scheduling=ahead)
    section = instance(folder, kv_tokens=240, placement=TO_CPU)
    cluster = cluster_of(folder, section, section, config=config, devices=2, mem_size=3e-4)
    seen = st.lists(st.integers(0, 1), min_size=1, max_size=110)
    workload = [
        RequestSpec(number, number * 10_000, len(ids), 40, input_token_ids=tuple(ids))
        for number, ids in enumerate(data.draw(st.lists(seen, min_size=2, max_size=8)))
    ]
    simulation, observer = run(cluster, workload, config)
    assert len(simulation.finished) == len(workload)
    tiers = [one.tiers for one in simulation.instances.values() if one.tiers is not None]
    pools = {id(one.pool): one.pool for one in tiers if one.pool is not None}.values()
    left = spare_bytes(cluster)
    for pool in pools:
        for memory in pool.memories:
            left[memory] -= pool.used_bytes // len(pool.memories)
        assert pool.used_bytes == pool.chunks * CHUNK * KV_BYTES_PER_TOKEN
    assert tiers[0]._spare.free_bytes == left
    evicted = sum(one.swap_statistics.evicted_tokens for one in tiers)
    assert observer.moved.get(KvMoveKind("kv_evict", CPU), 0) == evicted * KV_BYTES_PER_TOKEN
    assert all(one.kv_cache.used_blocks == 0 for one in simulation.instances.values())


def test_kv_from_the_pool_is_paid_for_where_less_was_kept_of_a_request_than_the_npu_has(tmp_path):
    config = caching()
    section = instance(tmp_path, placement=TO_CPU)
    tiers = make_tiers(cluster_of(tmp_path, section, config=config), config)[0]
    assert tiers.pool is not None
    request = Request(0, 0, 100, 1, token_ids=list(range(100)))
    tiers.write([request], np.array([0]), np.array([100]))
    tiers.take_moves(WHOLE_MODEL)
    tiers.commit()
    tiers.evict(request, 16)
    tiers.take_moves(WHOLE_MODEL)
    assert tiers.claim(request, 20, False) == 96
    assert tiers.take_moves(WHOLE_MODEL) == [{KvMoveKind("kv_load", CPU): 76 * KV_BYTES_PER_TOKEN}]
    assert request.swapped_tokens == 0


def test_a_pool_without_room_for_a_chunk_is_refused_with_numbers(tmp_path):
    config = caching()
    cluster = cluster_of(tmp_path, instance(tmp_path), config=config, mem_size=1e-6)
    with pytest.raises(
        InputError, match=r"cpu_mem.mem_size: leaves 1073 bytes .* chunk of 32 tokens takes 16384"
    ):
        make_tiers(cluster, config)


@pytest.mark.parametrize(
    ("config", "extra", "message"),
    [
        (
            replace(caching(), scheduler=SchedulerSettings()),
            {},
            "--prefix-storage: is a second tier of the prefix",
        ),
        (caching(storage="cxl"), {}, "cxl_mem: is missing, but --prefix-storage CXL needs it"),
        (caching(), {"placement": {"default": {"kv_loc": "cpu"}}}, "instance 0 keeps KV elsewhere"),
    ],
)
def test_a_second_tier_that_cannot_be_is_refused(tmp_path, config, extra, message):
    cluster = cluster_of(tmp_path, instance(tmp_path, **extra), config=config)
    with pytest.raises(InputError, match=message):
        make_tiers(cluster, config)


def test_an_instance_without_tiers_moves_nothing(tmp_path):
    cluster = cluster_of(tmp_path, instance(tmp_path))
    lone = Instance(cluster.instances[0], lone_costs(cluster.instances[0]))
    assert make_tiers(cluster, SimulationConfig()) == {}
    assert not any(lone.take_moves(Batch(np.array([1]), np.array([0]), 1, 1, 1)))

"""What holds for every run with pipeline stages: the invariants, and one batch at a time in each stage."""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path

import numpy as np
from clusters import requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_clusters import HOP_BYTES_PER_TOKEN, KV_BYTES_PER_TOKEN, pp_cluster, pp_instance
from run_invariants import check_invariants

from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation

Kind = tuple[int, int, str | None]  # stages, tensor-parallel ranks, role

colocated = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 2]), st.none()), min_size=1, max_size=2)
apart = st.tuples(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2]), st.just("prefill")),
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4]), st.just("decode")),
).map(list)
lengths = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), min_size=1, max_size=25)
schedulers = st.builds(
    SchedulerSettings,
    max_num_seqs=st.sampled_from([0, 1, 3]),
    max_num_batched_tokens=st.sampled_from([16, 64, 512]),
    block_size=st.sampled_from([1, 8, 16]),
    long_prefill_token_threshold=st.sampled_from([0, 24]),
    reserve_full_isl=st.booleans(),
    prioritize_prefill=st.booleans(),
    scheduling_policy=st.sampled_from(["fcfs", "priority"]),
)


class Stages:
    """Watches the stages of every instance, and what they compute."""

    def __init__(self) -> None:
        self.batches: dict[int, deque[int]] = {}
        self.busy: set[tuple[int, int]] = set()
        self.ends: dict[int, list[int]] = {}
        self.hop_bytes = 0
        self.most_on_their_way = 0

    def on_submit(self, instance, trace, ticket) -> None:
        stage = trace.shape.stage
        where = instance.instance_id, 0 if stage is None else stage.part
        assert where not in self.busy, "a stage began a batch before the last one ended"
        self.busy.add(where)
        if trace.shape.hands_on is not None:
            self.hop_bytes += trace.tokens * HOP_BYTES_PER_TOKEN
        if trace.shape.is_first_stage:
            on_their_way = self.batches.setdefault(instance.instance_id, deque())
            on_their_way.append(trace.tokens)
            assert len(on_their_way) <= instance.spec.pp_size

    def on_stage_end(self, now_ns, instance, stage) -> None:
        self.busy.remove((instance.instance_id, stage))

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        if instance.spec.pp_size == 1:
            self.busy.remove((instance.instance_id, 0))
        assert self.batches[instance.instance_id].popleft() == batch.total_tokens  # INV-5
        self.ends.setdefault(instance.instance_id, []).append(now_ns)


def run(kinds: list[Kind], pairs, scheduler, gap_ns: int, kv_tokens: int, **top) -> tuple[Simulation, Stages]:
    """Simulate on instances of these kinds, each with KV for so many tokens, and check the invariants."""
    folder = Path(tempfile.mkdtemp())
    config = SimulationConfig(scheduler=scheduler, request_routing_policy="LOAD")
    sections = [pp_instance(folder, stages, ranks, role) for stages, ranks, role in kinds]
    for section in sections:
        section["npu_mem"]["kv_blocks"] = -(-kv_tokens // scheduler.block_size)
    workload, stages = requests(*pairs, gap_ns=gap_ns), Stages()
    simulation = simulate(pp_cluster(folder, sections, config, **top), workload, config, [stages])
    check_invariants(simulation, workload)
    assert not stages.busy
    for ends in stages.ends.values():
        assert np.all(np.diff(ends) > 0)
    moved = sum(request.prompt_tokens for request in simulation.finished if request.decode_instance_id >= 0)
    sent = simulation.counters.p2p_bytes
    assert sent == stages.hop_bytes + moved * KV_BYTES_PER_TOKEN  # INV-7
    return simulation, stages


@settings(max_examples=80)
@given(colocated | apart, lengths, schedulers, st.integers(0, 40_000), st.sampled_from([0, 30_000]))
def test_invariants_hold_with_plenty_of_kv(kinds, pairs, scheduler, gap_ns, latency_ns):
    simulation, _ = run(kinds, pairs, scheduler, gap_ns, 100_000, link_latency=latency_ns)
    assert sum(one.scheduler.preemptions for one in simulation.instances.values()) == 0


@settings(max_examples=120)
@given(colocated | apart, lengths, schedulers, st.integers(0, 40_000), st.sampled_from([0, 30_000]))
def test_invariants_hold_when_kv_blocks_are_short(kinds, pairs, scheduler, gap_ns, latency_ns):
    longest = max(prompt + output for prompt, output in pairs)
    run(kinds, pairs, scheduler, gap_ns, longest + 2 * scheduler.block_size, link_latency=latency_ns)

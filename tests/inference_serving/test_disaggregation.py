"""Prefill and decode apart: when KV leaves and lands, what is sent, and who waits for room (INV-2, 7, 8)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from clusters import (
    KV_BYTES_PER_TOKEN,
    TINY_MODEL,
    LinearLatency,
    cluster_file,
    instance,
    lone_costs,
    requests,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.disaggregation import KvMover
from inference_serving.instance import Instance
from inference_serving.request import Request
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation
from inference_serving.trace import Trace

BLOCKS = 2  # of the test model
BLOCK_KV_BYTES = KV_BYTES_PER_TOKEN // BLOCKS  # K and V of one token in one block, all heads
TEN_BLOCKS = 10 * 16 + 8  # tokens of room
FAST, SLOW = 112, 0.01  # GB/s of the links


@dataclass(frozen=True)
class Submission:
    instance_id: int
    ticket: int
    at_ns: int
    trace: Trace
    request_ids: tuple[int, ...]

    def part_of(self, decode_id: int) -> int | None:
        """The part of the ticket that counts the transfer to an instance, if it gets anything."""
        targets = self.trace.shape.targets
        return next((one.part for one in targets if one.instance.instance_id == decode_id), None)

    @property
    def kv_bytes_per_block(self) -> list[int]:
        return self.trace.sizes[3:].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("clusters")


class Run:
    """Runs a workload and keeps every submission and every completion of the engine."""

    def __init__(self, cluster: Cluster, workload, config=None, latency=None) -> None:
        latencies = {spec.instance_id: latency or LinearLatency() for spec in cluster.instances}
        self.submissions: list[Submission] = []
        self.landed: dict[tuple[int, int], int] = {}
        self.simulation = Simulation(cluster, workload, config or SimulationConfig(), latencies, [self])
        controller = self.simulation.controller
        advance = controller.advance

        def logged(until_ns):
            completions = advance(until_ns)
            self.landed |= {(done.ticket, done.part): done.finish_ns for done in completions}
            return completions

        controller.advance = logged  # type: ignore[method-assign]
        self.simulation.run()

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        ids = tuple(request.request_id for request in instance.scheduler.running)
        now_ns = self.simulation.controller.now_ns
        self.submissions.append(Submission(instance.instance_id, ticket, now_ns, trace, ids))

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        pass

    def of(self, instance_id: int) -> list[Submission]:
        return [one for one in self.submissions if one.instance_id == instance_id]

    def request(self, request_id: int) -> Request:
        return next(one for one in self.simulation.finished if one.request_id == request_id)

    def token_times(self, request_id: int) -> list[int]:
        return self.request(request_id).token_times_ns().tolist()

    @property
    def p2p_bytes(self) -> int:
        return self.simulation.counters.p2p_bytes


def cluster_of(folder: Path, *kinds, config=None, link_bw: float = FAST, kv_tokens=(), **extra) -> Cluster:
    """Instances of (NPUs, role); ``kv_tokens`` gives the room of each, if it matters."""
    room = [*kv_tokens, *[100_000] * len(kinds)]
    sections = [
        instance(folder, *kind, kv_tokens=tokens, **extra) for kind, tokens in zip(kinds, room, strict=False)
    ]
    return load_cluster(cluster_file(folder, sections, link_bw=link_bw), config or SimulationConfig())


def message_ns(size: float, link_bw: float) -> int:
    return int(size / (link_bw * 2**30 / 1e9))


def all_reduce_ns(tokens: int, npus: int, link_bw: float) -> int:
    """Ring: 10 + 2(n-1)(message + 10) + (n-1) reductions, of chunks of the hidden states."""
    chunk = tokens * 64 * 2 // npus
    reduction = 3 * int(chunk / 3350)
    return (10 + 2 * (npus - 1) * (message_ns(chunk, link_bw) + 10) + (npus - 1) * reduction) * (npus > 1)


def iteration_ns(
    tokens: int, attention: int, npus: int = 1, link_bw: float = FAST, sequences: int = 1
) -> int:
    """One iteration of the test model; under 64 tokens the ids pass host memory in less than 1 ns."""
    layer = 1000 + 10 * tokens
    block = 11 * layer + attention + 2 * all_reduce_ns(tokens, npus, link_bw)
    return 2 * layer + BLOCKS * block + 1000 + 10 * sequences


def rope_end_ns(block: int, prompt: int, npus: int, link_bw: float) -> int:
    """When K and V of a block exist, from the start of a prefill iteration of one whole prompt."""
    layer = 1000 + 10 * prompt
    before = 11 * layer + 500 + prompt * prompt + 2 * all_reduce_ns(prompt, npus, link_bw)
    return layer + block * before + 5 * layer


def landing_ns(prompt: int, prefill: int, decode: int, link_bw: float) -> int:
    """When all KV of one prompt has landed: the messages of a block go one after another.

    The ranks of the smaller side each take part in as many messages as the other side has ranks for them.
    """
    size = BLOCK_KV_BYTES * prompt // max(prefill, decode)
    turns = max(prefill, decode) // min(prefill, decode)
    landed = 0
    for block in range(BLOCKS):
        ready = rope_end_ns(block, prompt, prefill, link_bw)
        landed = max(ready, landed) + turns * message_ns(size, link_bw)
    return landed


@pytest.mark.parametrize("prompt", [1, 10, 60])
@pytest.mark.parametrize(("link_bw", "kv_is_late"), [(FAST, False), (SLOW, True)])
def test_first_token_after_the_prefill_second_after_kv_and_a_decode_iteration(
    tmp_path, prompt, link_bw, kv_is_late
):
    run = Run(cluster_of(tmp_path, (1, "prefill"), (1, "decode"), link_bw=link_bw), requests((prompt, 3)))
    first, second, third = run.token_times(0)
    assert first == iteration_ns(prompt, 500 + prompt * prompt)
    landed = landing_ns(prompt, 1, 1, link_bw)
    assert (landed > first) == kv_is_late
    assert second == max(first, landed) + iteration_ns(1, 500 + prompt + 1)
    assert third - second == iteration_ns(1, 500 + prompt + 2)


@pytest.mark.parametrize("link_bw", [FAST, 0.4, SLOW])
@pytest.mark.parametrize(("prefill", "decode"), [(2, 1), (1, 2), (4, 1), (1, 4), (2, 4), (4, 2), (2, 2)])
def test_any_two_npu_counts_work_together(tmp_path, prefill, decode, link_bw):
    cluster = cluster_of(tmp_path, (prefill, "prefill"), (decode, "decode"), link_bw=link_bw)
    run = Run(cluster, requests((60, 2)))
    first, second = run.token_times(0)
    assert first == iteration_ns(60, 500 + 60 * 60, prefill, link_bw)
    start = max(first, landing_ns(60, prefill, decode, link_bw))
    assert second == start + iteration_ns(1, 500 + 61, decode, link_bw)
    assert run.p2p_bytes == 60 * KV_BYTES_PER_TOKEN


def test_the_step_overhead_delays_prefill_and_decode(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"))
    run = Run(cluster, requests((60, 2)), latency=LinearLatency(step_overhead_ns=700))
    first, second = run.token_times(0)
    assert first == 700 + iteration_ns(60, 500 + 60 * 60)
    assert second - first == 700 + iteration_ns(1, 500 + 61)


@pytest.mark.parametrize("npus", [1, 2, 4])
@pytest.mark.parametrize("link_bw", [FAST, SLOW])
def test_sending_kv_takes_nothing_from_compute_and_collectives(tmp_path, npus, link_bw):
    cluster = cluster_of(tmp_path, (npus, "prefill"), (1, "decode"), link_bw=link_bw)
    silent = Run(cluster, requests((300, 1)))
    sending = Run(cluster, requests((300, 2)))
    assert sending.p2p_bytes > silent.p2p_bytes == 0
    assert sending.token_times(0)[0] == silent.token_times(0)[0]


@pytest.mark.parametrize("npus", [1, 2])
def test_landing_kv_takes_nothing_from_a_decode_that_goes_on(tmp_path, npus):
    cluster = cluster_of(tmp_path, (1, "prefill"), (npus, "decode"), link_bw=SLOW)
    run = Run(cluster, requests((8, 40), (400, 2), gap_ns=1))
    later = run.token_times(0)[1:]
    (second_prefill,) = [one for one in run.of(0) if one.request_ids == (1,)]
    kv_on_the_way_until = run.landed[second_prefill.ticket, 1]
    assert later[-1] < kv_on_the_way_until
    expected = [iteration_ns(1, 500 + 8 + token, npus, SLOW) for token in range(2, 40)]
    assert [b - a for a, b in pairwise(later)] == expected


def test_transfers_into_one_decode_npu_take_turns(tmp_path):
    """Two prefills end block 0 at once; one lane then carries A0 B0 A1 B1 without a gap."""
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "prefill"), (1, "decode"), link_bw=SLOW)
    run = Run(cluster, requests((60, 2), (60, 2)))
    one_ns = message_ns(60 * BLOCK_KV_BYTES, SLOW)
    start = rope_end_ns(0, 60, 1, SLOW)
    assert run.landed[run.of(0)[0].ticket, 1] == start + 3 * one_ns
    assert run.landed[run.of(1)[0].ticket, 1] == start + 4 * one_ns


def test_transfers_into_different_decode_npus_do_not_wait_for_each_other(tmp_path):
    kinds = [(1, "prefill"), (1, "prefill"), (1, "decode"), (1, "decode")]
    run = Run(cluster_of(tmp_path, *kinds, link_bw=SLOW), requests((60, 2), (60, 2)))
    landed = rope_end_ns(0, 60, 1, SLOW) + 2 * message_ns(60 * BLOCK_KV_BYTES, SLOW)
    assert [run.landed[run.of(prefill)[0].ticket, 1] for prefill in (0, 1)] == [landed, landed]


def test_one_npu_sends_to_two_instances_in_turn(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), (1, "decode"), link_bw=SLOW)
    run = Run(cluster, requests((20, 2), (40, 2)))
    layer = 1000 + 10 * 60  # both prompts in one iteration
    start = 6 * layer
    short, long = (message_ns(tokens * BLOCK_KV_BYTES, SLOW) for tokens in (20, 40))
    (prefill,) = run.of(0)
    assert run.landed[prefill.ticket, 1] == start + short + long + short
    assert run.landed[prefill.ticket, 2] == start + 2 * (short + long)


@pytest.mark.parametrize(
    ("prefill", "decode", "heads_sent"), [(1, 1, 2), (4, 1, 2), (2, 4, 4), (1, 8, 8), (8, 4, 4), (8, 8, 8)]
)
def test_ranks_beyond_the_kv_heads_get_a_copy_each(tmp_path, prefill, decode, heads_sent):
    model = tmp_path / "gqa.json"
    model.write_text(json.dumps({**TINY_MODEL, "num_attention_heads": 8, "num_key_value_heads": 2}))
    kinds = [(prefill, "prefill"), (decode, "decode")]
    run = Run(cluster_of(tmp_path, *kinds, model_name=str(model)), requests((50, 2), (31, 3)))
    assert run.p2p_bytes == 2 * heads_sent * 8 * 2 * BLOCKS * (50 + 31)  # heads of 8 elements of 2 bytes


def test_kv_of_eight_bits_is_half_as_much(tmp_path):
    config = SimulationConfig(kv_bits=8)
    run = Run(cluster_of(tmp_path, (1, "prefill"), (1, "decode"), config=config), requests((50, 2)), config)
    assert run.p2p_bytes == 50 * KV_BYTES_PER_TOKEN // 2


def test_all_prompts_with_more_than_one_token_are_sent_once(tmp_path):
    kinds = [(1, "prefill"), (2, "prefill"), (2, "decode"), (1, "decode")]
    lengths = [(100, 2), (7, 1), (64, 30), (1, 9), (300, 1), (33, 2)]
    run = Run(cluster_of(tmp_path, *kinds), requests(*lengths, gap_ns=20_000))
    assert run.p2p_bytes == (100 + 64 + 1 + 33) * KV_BYTES_PER_TOKEN


def test_every_chunk_is_sent_once_with_its_own_iteration(tmp_path):
    config = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=100))
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), config=config)
    run = Run(cluster, requests((250, 2)), config)
    sent = [one.kv_bytes_per_block for one in run.of(0)]
    assert sent == [[tokens * BLOCK_KV_BYTES] for tokens in (100, 100, 50)]
    assert run.p2p_bytes == 250 * KV_BYTES_PER_TOKEN


def test_a_preemption_on_the_prefill_side_sends_nothing_twice(tmp_path):
    """The first prompt's KV is slow to leave, so the second, 28 tokens in, finds no block and starts anew."""
    scheduler = SchedulerSettings(max_num_batched_tokens=64, reserve_full_isl=False)
    config = SimulationConfig(scheduler=scheduler)
    kinds, room = [(1, "prefill"), (1, "decode")], [TEN_BLOCKS]
    run = Run(
        cluster_of(tmp_path, *kinds, config=config, link_bw=SLOW, kv_tokens=room),
        requests((100, 2), (100, 2)),
        config,
    )
    assert run.simulation.instances[0].scheduler.preemptions == 1
    sent = [sum(one.kv_bytes_per_block) // BLOCK_KV_BYTES for one in run.of(0)]
    assert sent == [64, 36 + 28, 64 - 28, 36]
    assert run.p2p_bytes == 200 * KV_BYTES_PER_TOKEN


def test_a_preemption_on_the_decode_side_sends_nothing(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), kv_tokens=[1000, TEN_BLOCKS])
    run = Run(cluster, requests((64, 60), (64, 60)))
    assert run.simulation.instances[1].scheduler.preemptions > 0
    assert run.p2p_bytes == 128 * KV_BYTES_PER_TOKEN


def test_a_single_output_token_stays_on_the_prefill_side(tmp_path):
    run = Run(cluster_of(tmp_path, (1, "prefill"), (1, "decode")), requests((50, 1)))
    request, decode = run.request(0), run.simulation.instances[1]
    assert (run.p2p_bytes, decode.iterations, decode.kv_cache.peak_blocks) == (0, 0, 0)
    assert (request.instance_id, request.prefill_instance_id, request.decode_instance_id) == (0, 0, -1)


def test_requests_of_one_batch_send_each_for_itself(tmp_path):
    run = Run(cluster_of(tmp_path, (1, "prefill"), (1, "decode")), requests((50, 1), (20, 2), (9, 1)))
    (prefill,) = run.of(0)
    assert prefill.request_ids == (0, 1, 2)
    assert prefill.kv_bytes_per_block == [20 * BLOCK_KV_BYTES]


@settings(max_examples=60)
@given(
    st.sampled_from([[(1, 1), (1, 1)], [(2, 1), (1, 4)], [(1, 2), (2, 1)], [(4, 4), (1, 1)]]),
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 6)), min_size=1, max_size=12),
    st.sampled_from([FAST, 0.3, SLOW]),
    st.integers(0, 60_000),
)
def test_no_request_is_decoded_before_its_first_token_and_all_its_kv(folder, pairs, lengths, link_bw, gap_ns):
    config = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=64))
    kinds = [(p, "prefill") for p, _ in pairs] + [(d, "decode") for _, d in pairs]
    cluster = cluster_of(folder, *kinds, config=config, link_bw=link_bw)
    run = Run(cluster, requests(*lengths, gap_ns=gap_ns), config)
    for decode in [one for one in run.submissions if one.instance_id >= len(pairs)]:
        for request_id in decode.request_ids:
            assert decode.at_ns >= run.token_times(request_id)[0]
            for prefill in run.submissions:
                part = prefill.part_of(decode.instance_id)
                if prefill.instance_id < len(pairs) and request_id in prefill.request_ids and part:
                    assert run.landed[prefill.ticket, part] <= decode.at_ns


def test_a_prompt_waits_until_the_decode_side_has_room_for_it(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), kv_tokens=[1000, TEN_BLOCKS])
    run = Run(cluster, requests((100, 5), (100, 5)))
    assert run.request(1).first_scheduled_ns == run.request(0).end_ns
    decode = run.simulation.instances[1].kv_cache
    assert decode.peak_blocks == 7  # of 16 tokens, for 105
    assert decode.free_blocks == decode.capacity_blocks


def test_room_for_both_lets_the_second_prompt_start_at_once(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), kv_tokens=[1000, 14 * 16 + 8])
    run = Run(cluster, requests((100, 5), (100, 5)))
    assert run.request(1).first_scheduled_ns == 0
    assert run.simulation.instances[1].kv_cache.peak_blocks == 14


def test_prefill_keeps_its_blocks_until_the_kv_has_landed(tmp_path):
    kinds = [(1, "prefill"), (1, "decode")]
    run = Run(cluster_of(tmp_path, *kinds, link_bw=SLOW, kv_tokens=[TEN_BLOCKS]), requests((60, 2), (140, 2)))
    landed = landing_ns(60, 1, 1, SLOW)
    assert run.token_times(0)[0] < landed
    assert run.request(1).first_scheduled_ns == landed


def test_a_request_leaves_the_prefill_instance_with_its_kv(tmp_path):
    run = Run(cluster_of(tmp_path, (1, "prefill"), (1, "decode")), requests((60, 2), (10, 1), (30, 3)))
    assert [one.unfinished_requests for one in run.simulation.instances.values()] == [0, 0]


def test_a_crowd_before_a_small_decode_pool_all_gets_served(tmp_path):
    kinds = [(1, "prefill"), (2, "prefill"), (1, "decode")]
    cluster = cluster_of(tmp_path, *kinds, kv_tokens=[400, 400, TEN_BLOCKS])
    lengths = [(100, 40), (40, 90), (140, 1), (16, 100)] * 6
    run = Run(cluster, requests(*lengths))
    assert sorted(one.request_id for one in run.simulation.finished) == list(range(len(lengths)))
    pools = [one.kv_cache for one in run.simulation.instances.values()]
    assert [pool.used_blocks for pool in pools] == [0, 0, 0]


class Books:
    """A prefill and a decode instance without a run, and the mover between them."""

    def __init__(self, folder: Path) -> None:
        specs = cluster_of(folder, (1, "prefill"), (1, "decode"), kv_tokens=[1000, TEN_BLOCKS]).instances
        instances = {spec.instance_id: Instance(spec, lone_costs(spec)) for spec in specs}
        self.mover, self.decode = KvMover(instances), instances[1]

    @property
    def reserved_blocks(self) -> int:
        return self.decode.kv_cache.used_blocks


def a_request(prompt: int, output: int) -> Request:
    return Request(0, 0, prompt, output, instance_id=0, prefill_instance_id=0, decode_instance_id=1)


def test_blocks_are_reserved_for_the_whole_prompt_and_once(tmp_path):
    books, request = Books(tmp_path), a_request(100, 5)
    assert [books.mover.may_admit(request) for _ in range(3)] == [True] * 3
    assert books.reserved_blocks == request.reserved_blocks == 7


def test_a_refused_request_reserves_nothing(tmp_path):
    books = Books(tmp_path)
    books.mover.may_admit(a_request(100, 5))
    assert not books.mover.may_admit(a_request(50, 5))  # 4 blocks, 3 are free
    assert books.reserved_blocks == 7


def test_a_request_of_one_output_token_needs_no_room_at_the_decode_side(tmp_path):
    books = Books(tmp_path)
    books.mover.may_admit(a_request(160, 5))
    assert books.mover.may_admit(a_request(100, 1))
    assert books.reserved_blocks == 10


def test_nothing_is_reserved_while_a_preempted_request_waits_at_the_decode_side(tmp_path):
    books = Books(tmp_path)
    books.decode.scheduler.enqueue(a_request(30, 5))  # it holds no blocks
    assert not books.mover.may_admit(a_request(16, 5))
    assert books.reserved_blocks == 0


def test_a_prompt_goes_ahead_once_no_preempted_request_waits_any_more(tmp_path):
    config = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=32))
    kinds = [(1, "prefill"), (1, "decode")]
    cluster = cluster_of(tmp_path, *kinds, config=config, kv_tokens=[100_000, 8 * 16 + 8])
    run = Run(cluster, requests((48, 48), (48, 64), (16, 64), (16, 16)), config)
    assert run.request(3).first_scheduled_ns < run.request(1).end_ns

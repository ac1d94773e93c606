"""KV of layer groups on its way to a decode instance: bytes with each group, tokens with the last (INV-7, 8, 14)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clusters import lone_costs, requests
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_group_runs import Log, cluster_of, run_in_groups, token_times

from inference_serving.disaggregation import KvMover
from inference_serving.instance import Instance
from inference_serving.layer_group import LayerGroup, layer_groups
from inference_serving.request import Batch, Request, RequestState
from inference_serving.settings import SchedulerSettings, SimulationConfig

CHUNKED = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=64))
BLOCK_KV_BYTES = 2 * 4 * 16 * 2  # K and V of one token in one block of the tiny model
FAST, SLOW = 112, 0.01  # GB/s of the links
PREFILL, DECODE = 0, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("clusters")


def sent_by_groups(log: Log) -> list[int]:
    """Bytes that each group (or iteration) of the prefill instance sends."""
    return [
        int(trace.sizes[3:].sum()) * len(trace.shape.blocks)
        for number, trace in log.traces
        if number == PREFILL
    ]


@settings(max_examples=40)
@given(
    st.sampled_from([(1, 1), (2, 1), (1, 4), (4, 2)]),
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 6)), min_size=1, max_size=6),
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from([FAST, SLOW]),
)
def test_groups_that_nobody_interrupts_send_and_land_as_the_whole_iteration_does(
    folder, npus, workload, blocks, count, link_bw
):
    kinds = (npus[0], "prefill"), (npus[1], "decode")
    cluster = cluster_of(folder, *kinds, blocks=blocks, config=CHUNKED, link_bw=link_bw)
    whole, _ = run_in_groups(cluster, requests(*workload, gap_ns=9_000), 1, CHUNKED)
    cut, _ = run_in_groups(cluster, requests(*workload, gap_ns=9_000), count, CHUNKED)
    assert token_times(cut) == token_times(whole)
    assert cut.counters.p2p_bytes == whole.counters.p2p_bytes
    assert cut.counters.tickets_active == 0
    assert {one.pending_transfers for one in cut.finished} == {0}


def test_each_group_sends_as_it_runs(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), blocks=5, config=CHUNKED)
    _, log = run_in_groups(cluster, requests((100, 2)), 2, CHUNKED)
    blocks_and_tokens = [(2, 64), (3, 64), (2, 36), (3, 36)]
    assert sent_by_groups(log) == [blocks * tokens * BLOCK_KV_BYTES for blocks, tokens in blocks_and_tokens]


def test_a_chunk_given_up_after_a_group_is_sent_again_and_nothing_else_is(tmp_path):
    """The second of two chunks loses its KV after the first of three groups: chunk 0 was sent, its group was too."""
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"), config=CHUNKED, link_bw=SLOW)
    simulation, log = run_in_groups(cluster, requests((100, 3)), 3, CHUNKED, given_up=[1])
    (request,) = simulation.finished
    assert (request.preemptions, request.pending_transfers, request.kv_sent_tokens) == (1, 0, 100)
    of_two_blocks = [64, 64, 64, 36, 0, 0, 0, 36, 36, 36]
    assert sent_by_groups(log) == [2 * tokens * BLOCK_KV_BYTES for tokens in of_two_blocks]
    assert simulation.counters.p2p_bytes == (6 * 100 + 2 * 36) * BLOCK_KV_BYTES


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(2, 200), st.integers(1, 6)), min_size=1, max_size=6),
    st.integers(2, 6),
    st.sets(st.integers(0, 12), max_size=4),
    st.sampled_from([FAST, SLOW]),
)
def test_chunks_given_up_between_groups_lose_no_request_no_block_and_no_ticket(
    folder, workload, count, given_up, link_bw
):
    kinds = (1, "prefill"), (2, "decode")
    cluster = cluster_of(folder, *kinds, config=CHUNKED, link_bw=link_bw)
    simulation, log = run_in_groups(
        cluster, requests(*workload, gap_ns=9_000), count, CHUNKED, given_up=given_up
    )
    assert sorted(token_times(simulation)) == list(range(len(workload)))
    assert [one.kv_cache.used_blocks for one in simulation.instances.values()] == [0, 0]
    assert {one.pending_transfers for one in simulation.finished} == {0}
    for one in simulation.finished:
        assert one.kv_sent_tokens == (one.prompt_tokens if one.output_tokens > 1 else 0)
    assert simulation.counters.p2p_bytes == sum(sent_by_groups(log))
    assert simulation.counters.tickets_active == 0


class Books:
    """Two prompts of 100 tokens that run on a prefill instance, chunks of 60 and 40 in two layer groups each."""

    def __init__(self, folder: Path) -> None:
        specs = cluster_of(folder, (1, "prefill"), (1, "decode")).instances
        instances = {spec.instance_id: Instance(spec, lone_costs(spec)) for spec in specs}
        self.mover, self.prefill = KvMover(instances), instances[PREFILL]
        self.requests = [a_request(number) for number in range(2)]
        for request in self.requests:
            self.prefill.scheduler.enqueue(request)
        self.prefill.scheduler.schedule(0)
        self.tickets: list[int] = []

    def run(self, request_id: int, computed: int, tokens: int, group: LayerGroup) -> int:
        """Submit a group of one request's chunk while the other waits, paused or not; the tokens it sends."""
        grants, context = np.zeros(2, dtype=np.int64), np.array([computed, computed], dtype=np.int64)
        grants[request_id] = tokens
        outgoing = self.mover.tokens_to_send(self.prefill, Batch(grants, context, tokens, tokens, 1, group))
        self.mover.sent(len(self.tickets), outgoing, all_layers=group.is_last)
        self.tickets.append(len(self.tickets))
        ((request, sent),) = outgoing[DECODE]
        assert request is self.requests[request_id]
        return sent

    @property
    def sent_tokens(self) -> list[int]:
        return [request.kv_sent_tokens for request in self.requests]

    @property
    def pending(self) -> list[int]:
        return [request.pending_transfers for request in self.requests]


def a_request(number: int) -> Request:
    return Request(number, 0, 100, 5, instance_id=0, prefill_instance_id=0, decode_instance_id=1)


FIRST, LAST = layer_groups(6, 2)


def test_tokens_count_as_sent_with_the_last_group(tmp_path):
    books = Books(tmp_path)
    assert books.run(0, 0, 60, FIRST) == 60
    assert (books.sent_tokens, books.pending) == ([0, 0], [1, 0])
    assert books.run(0, 0, 60, LAST) == 60
    assert (books.sent_tokens, books.pending) == ([60, 0], [2, 0])


def test_a_paused_chunk_sends_its_last_group_as_if_nothing_had_run_in_between(tmp_path):
    books = Books(tmp_path)
    books.run(0, 0, 60, FIRST)
    assert books.run(1, 0, 40, FIRST) == books.run(1, 0, 40, LAST) == 40
    assert books.run(0, 0, 60, LAST) == 60
    assert (books.sent_tokens, books.pending) == ([60, 40], [2, 2])


def test_a_row_without_a_grant_sends_nothing_even_if_it_came_with_kv(tmp_path):
    """Its context, such as a prompt that is in the cache already, leaves with its own chunk, all layers alike."""
    books = Books(tmp_path)
    assert books.run(0, 50, 40, FIRST) == 90
    assert books.run(1, 50, 40, FIRST) == 90
    assert books.run(0, 50, 40, LAST) == 90


def test_groups_land_one_by_one_and_the_request_is_complete_with_the_last(tmp_path):
    books = Books(tmp_path)
    books.run(0, 0, 100, FIRST)
    books.run(0, 0, 100, LAST)
    (request,) = books.prefill.scheduler.running[:1]
    request.state = RequestState.TRANSFERRING
    assert books.mover.landed(1, 1) == []
    assert books.mover.landed(0, 1) == [request]
    assert request.pending_transfers == 0

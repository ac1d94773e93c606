"""Batches for pipeline stages: who may be in two of them at once, and what a preempted request still gets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_builders import ITERATION_NS, PipelineBench

from inference_serving.request import RequestState


def test_a_request_decodes_again_when_its_token_is_back():
    bench = PipelineBench(stages=3)
    bench.add("a", prompt=5, output=3)
    assert bench.form() == [("a", 5, 0)]
    assert bench.form() == []
    bench.back()
    assert bench.form() == [("a", 1, 5)]
    assert bench.form() == []


def test_chunks_of_a_prompt_follow_each_other():
    bench = PipelineBench(stages=3, max_num_batched_tokens=8)
    request = bench.add("a", prompt=20, output=1)
    assert [bench.form() for _ in range(3)] == [[("a", 8, 0)], [("a", 8, 8)], [("a", 4, 16)]]
    bench.back()
    bench.back()
    assert request.state is RequestState.RUNNING
    assert bench.back().finished == [request]
    assert request.token_times_ns().tolist() == [3 * ITERATION_NS]


def test_what_arrives_while_a_batch_is_on_its_way_gets_one_of_its_own():
    bench = PipelineBench(stages=2)
    bench.add("a", prompt=4, output=5)
    bench.form()
    bench.add("b", prompt=4, output=5)
    assert bench.form() == [("b", 4, 0)]
    bench.back()
    assert bench.form() == [("a", 1, 4)]
    bench.back()
    assert bench.form() == [("b", 1, 4)]


def short_of_kv(output_b: int):
    """Request b has taken the last block, and its first token is on its way, when a needs another block."""
    bench = PipelineBench(stages=2, kv_blocks=3, max_num_batched_tokens=8)
    a, b = bench.add("a", prompt=8, output=3), bench.add("b", prompt=4, output=output_b)
    assert bench.form() == [("a", 8, 0)]
    assert bench.form() == [("b", 4, 0)]
    bench.back()
    assert bench.form() == [("a", 1, 8)]
    assert (b.state, b.preemptions, b.computed, b.generated) == (RequestState.WAITING, 1, 0, 0)
    return bench, a, b


def test_a_preempted_request_gets_the_token_that_is_on_its_way_and_starts_again_after_it():
    bench, a, b = short_of_kv(output_b=3)
    assert bench.back().generated_tokens == 1
    assert (b.state, b.generated) == (RequestState.WAITING, 1)
    assert bench.form() == []  # a's block is the last one
    bench.back()
    assert bench.form() == [("a", 1, 9)]
    assert bench.back().finished == [a]
    assert bench.form() == [("b", 5, 0)]  # with the token that it got
    bench.back()
    assert bench.form() == [("b", 1, 5)]
    assert bench.back().finished == [b]
    assert len(b.token_times_ns()) == 3
    assert bench.kv_cache.free_blocks == 3


def test_a_preempted_request_whose_last_token_was_on_its_way_has_finished():
    bench, _, b = short_of_kv(output_b=1)
    assert bench.back().finished == [b]
    assert (b.state, b.end_ns, b.token_times_ns().tolist()) == (RequestState.FINISHED, 200, [200])
    assert bench.waiting() == []


def test_a_preempted_request_does_not_start_again_before_its_token_is_out():
    bench = PipelineBench(stages=3, kv_blocks=4, max_num_batched_tokens=8, max_num_seqs=2)
    a, b = bench.add("a", prompt=8, output=2), bench.add("b", prompt=8, output=9)
    assert bench.form() == [("a", 8, 0)]
    assert bench.form() == [("b", 8, 0)]
    bench.back()
    assert bench.form() == [("a", 1, 8)]  # in b's blocks
    # a's blocks would do for b by now if a were gone; b waits for its own batch all the same
    bench.scheduler.kv_cache.capacity_blocks = 8
    bench.scheduler.kv_cache.free_blocks += 4
    assert bench.form() == []
    bench.back()
    assert bench.form() == [("b", 8, 0)]
    assert bench.back().finished == [a]
    assert b.generated == 1


def test_a_prompt_that_is_preempted_on_its_way_to_a_decode_instance_arrives_there():
    bench = PipelineBench(
        stages=3, kv_blocks=3, hands_over=True, max_num_batched_tokens=8, long_prefill_token_threshold=4
    )
    bench.add("a", prompt=12, output=5)
    b = bench.add("b", prompt=4, output=5)
    assert bench.form() == [("a", 4, 0), ("b", 4, 0)]
    assert bench.form() == [("a", 4, 4)]
    assert bench.form() == [("a", 4, 8)]
    assert b.preemptions == 1
    assert bench.back().handed_over == [b]
    assert (b.state, b.generated, b.token_times_ns().tolist()) == (RequestState.TRANSFERRING, 1, [100])


@dataclass
class Known:
    """A request as the second implementation knows it."""

    prompt: int
    output: int
    computed: int = 0
    times: list[int] = field(default_factory=list)
    waits: bool = False


def by_hand(pairs, stages: int, budget: int) -> list[list[int]]:
    """Token times of requests that are all there at 0, KV in plenty: lists and loops, one request after another."""
    known, now, batches = [Known(*pair) for pair in pairs], 0, deque()
    while any(len(one.times) < one.output for one in known):
        while len(batches) < stages:
            left, batch = budget, []
            for one in known:
                tokens = min(one.prompt + len(one.times) - one.computed, left)
                if tokens > 0 and not one.waits and len(one.times) < one.output:
                    one.computed, left = one.computed + tokens, left - tokens
                    one.waits = one.computed == one.prompt + len(one.times)
                    batch.append((one, one.waits))
            if not batch:
                break
            batches.append(batch)
        now += ITERATION_NS
        for one, emits in batches.popleft():
            if emits:
                one.times.append(now)
                one.waits = False
    return [one.times for one in known]


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([4, 16, 64]),
)
def test_token_times_are_those_of_a_second_implementation(pairs, stages, budget):
    bench = PipelineBench(stages, max_num_batched_tokens=budget, reserve_full_isl=False)
    added = [bench.add(str(number), *pair) for number, pair in enumerate(pairs)]
    on_their_way = 0
    while any(request.state is not RequestState.FINISHED for request in added):
        while on_their_way < stages and bench.form():
            on_their_way += 1
        bench.back()
        on_their_way -= 1
    assert [request.token_times_ns().tolist() for request in added] == by_hand(pairs, stages, budget)


def test_the_clocks_forget_what_nobody_needs(monkeypatch):
    monkeypatch.setattr("inference_serving.running_table._TRIM_EVERY", 8)
    monkeypatch.setattr("inference_serving.scheduler._TRIM_CLOCK_EVERY", 4)
    bench = PipelineBench(stages=2, max_num_batched_tokens=4)
    for number in range(12):
        bench.add(str(number), prompt=4, output=30)
    bench.form()
    while bench.form():
        bench.back()
    bench.back()
    clocks = bench.scheduler._table._clocks
    assert sum(clock.count for clock in clocks) > 90
    assert all(len(clock._ends) < clock.count for clock in clocks)


@pytest.mark.parametrize("stages", [1, 2])
def test_interrupted_requests_keep_what_has_come_back(stages):
    bench = PipelineBench(stages)
    a = bench.add("a", prompt=4, output=9)
    bench.form()
    bench.back()
    bench.form()
    assert bench.scheduler.evict_all() == [a]
    assert (a.generated, len(a.token_times_ns())) == (1, 1)

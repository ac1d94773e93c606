"""Specification of preemption: who gives way when KV blocks run out, and how it comes back.

A batch is written as a list of (request, tokens that it runs, tokens computed before); blocks have 4 tokens.
"""

from __future__ import annotations

from scheduler_builders import Bench

from inference_serving.request import RequestState

# --- who gives way


def test_fcfs_preempts_the_tail_of_the_running_list():
    bench = Bench(kv_blocks=5)
    bench.add("a", prompt=8)
    bench.add("b", prompt=4)
    bench.add("c", prompt=8)
    bench.step()
    assert bench.step() == [("a", 1, 8), ("b", 1, 4)]
    assert bench.waiting() == ["c"]


def test_under_fcfs_the_tail_gives_way_even_if_it_is_the_one_that_needs_a_block():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=6)
    bench.add("b", prompt=8)
    bench.step()
    assert bench.step() == [("a", 1, 6)]
    assert bench.waiting() == ["b"]


def test_as_many_requests_give_way_as_are_needed_and_keep_their_order():
    bench = Bench(
        kv_blocks=4, max_num_batched_tokens=9, long_prefill_token_threshold=7, reserve_full_isl=False
    )
    bench.add("long", prompt=14)
    bench.add("b", prompt=1)
    bench.add("c", prompt=1)
    bench.step()  # 7 tokens of the long prompt have two blocks, b and c one each
    assert bench.step() == [("long", 7, 7)]
    assert bench.waiting() == ["b", "c"]


def test_priority_preempts_the_largest_number_wherever_it_runs():
    bench = Bench(kv_blocks=5, scheduling_policy="priority")
    bench.add("bulk", prompt=5, priority=9)
    bench.step()
    bench.add("top", prompt=8, priority=0)
    bench.add("mid", prompt=4, priority=5)
    bench.step()
    assert bench.running() == ["bulk", "top", "mid"]
    assert bench.step() == [("top", 1, 8), ("mid", 1, 4)]
    assert bench.waiting() == ["bulk"]


def test_among_equal_priorities_the_latest_arrival_gives_way():
    bench = Bench(kv_blocks=4, scheduling_policy="priority")
    bench.add("late", prompt=5, arrival_ns=20)
    bench.step()
    bench.add("early", prompt=8, arrival_ns=10)
    bench.step()
    assert bench.step() == [("early", 1, 8)]


def test_tokens_that_a_victim_had_been_given_go_to_those_behind():
    bench = Bench(
        kv_blocks=4,
        max_num_batched_tokens=7,
        long_prefill_token_threshold=4,
        reserve_full_isl=False,
        scheduling_policy="priority",
    )
    bench.add("bulk", prompt=5, priority=9)
    bench.step()
    bench.add("b", prompt=12, priority=0)
    bench.add("c", prompt=12, priority=0)
    assert bench.steps(2) == [[("bulk", 1, 4), ("b", 4, 0), ("c", 2, 0)], [("b", 4, 4), ("c", 3, 2)]]


def test_a_request_that_gives_way_itself_ends_the_round_for_those_behind_it():
    bench = Bench(kv_blocks=5, scheduling_policy="priority")
    bench.add("mid", prompt=1, priority=5)
    bench.add("bulk", prompt=7, priority=9)
    bench.step()
    bench.add("top", prompt=8, priority=0)
    bench.step()
    assert bench.steps(2) == [[("mid", 1, 2)], [("mid", 1, 3), ("top", 1, 8)]]


def test_a_round_that_only_preempted_is_followed_by_another():
    bench = Bench(kv_blocks=4, scheduling_policy="priority")
    bench.add("bulk", prompt=7, priority=9)
    bench.step()
    bench.add("top", prompt=8, priority=0)
    bench.step()
    assert bench.step() == [("top", 1, 8)]
    assert bench.waiting() == ["bulk"]


# --- what becomes of it


def test_a_preempted_request_loses_its_blocks_and_counts_it():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=8)
    victim = bench.add("b", prompt=8)
    bench.steps(2)
    assert victim.state is RequestState.WAITING
    assert (victim.blocks, victim.computed, victim.generated) == (0, 0, 1)
    assert (victim.preemptions, bench.scheduler.preemptions) == (1, 1)
    assert bench.kv_cache.used_blocks == 3


def test_a_preempted_request_keeps_its_place_ahead_of_those_that_came_later():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=8)
    bench.add("b", prompt=8)
    bench.step()
    bench.add("c", prompt=1)
    bench.step()
    assert bench.waiting() == ["b", "c"]


def test_a_preempted_request_is_recomputed_together_with_the_tokens_it_had_generated():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=8, output=2)
    bench.add("b", prompt=8, output=3)
    assert bench.run() == [[("a", 8, 0), ("b", 8, 0)], [("a", 1, 8)], [("b", 9, 0)], [("b", 1, 9)]]


def test_recomputation_brings_no_token_a_second_time():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=8, output=2)
    victim = bench.add("b", prompt=8, output=3)
    bench.run()
    assert victim.token_times_ns().tolist() == [100, 300, 400]


def test_recomputation_is_cut_into_chunks_as_a_prompt_is():
    bench = Bench(kv_blocks=4, max_num_batched_tokens=16, long_prefill_token_threshold=8)
    bench.add("a", prompt=8, output=2)
    bench.add("b", prompt=8, output=3)
    assert bench.run()[2:] == [[("b", 8, 0)], [("b", 1, 8)], [("b", 1, 9)]]


def test_a_preempted_request_keeps_the_time_it_was_first_scheduled():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=8, output=2)
    victim = bench.add("b", prompt=8, output=3)
    bench.run()
    assert (victim.preemptions, victim.first_scheduled_ns) == (1, 0)


def test_nobody_is_admitted_in_an_iteration_that_preempted():
    bench = Bench(kv_blocks=4, scheduling_policy="priority")
    bench.add("a", prompt=8, priority=0)
    bench.add("b", prompt=8, priority=9)
    bench.step()
    bench.add("c", prompt=1, priority=1)
    assert bench.steps(2) == [[("a", 1, 8)], [("a", 1, 9), ("c", 1, 0)]]

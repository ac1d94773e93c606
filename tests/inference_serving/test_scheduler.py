"""Specification of batching: who runs how many tokens in an iteration, under which limits.

A batch is written as a list of (request, tokens that it runs, tokens computed before).
"""

from __future__ import annotations

import pickle

import pytest
from scheduler_builders import ITERATION_NS, Bench

from inference_serving.request import RequestState

# --- a request on its own


def test_a_request_runs_its_prompt_and_then_a_token_an_iteration():
    bench = Bench()
    bench.add("a", prompt=7, output=3)
    assert bench.run() == [[("a", 7, 0)], [("a", 1, 7)], [("a", 1, 8)]]


def test_a_request_of_one_output_token_ends_with_its_prompt():
    bench = Bench()
    bench.add("a", prompt=7, output=1)
    assert bench.run() == [[("a", 7, 0)]]


def test_output_tokens_come_out_at_the_ends_of_the_iterations():
    bench = Bench(max_num_batched_tokens=4)
    request = bench.add("a", prompt=10, output=3)  # two iterations of chunks bring no token
    bench.run()
    assert request.token_times_ns().tolist() == [3 * ITERATION_NS, 4 * ITERATION_NS, 5 * ITERATION_NS]


def test_a_finished_request_says_when_and_gives_its_blocks_back():
    bench = Bench(kv_blocks=10)
    request = bench.add("a", prompt=7, output=2)
    bench.run()
    assert request.state is RequestState.FINISHED
    assert request.end_ns == 2 * ITERATION_NS
    assert (request.blocks, bench.kv_cache.free_blocks) == (0, 10)
    assert bench.outcome.finished == [request]


def test_a_request_remembers_when_it_was_first_scheduled():
    bench = Bench(max_num_seqs=1)
    first, second = bench.add("a", prompt=4, output=3), bench.add("b", prompt=4, output=1)
    bench.run()
    assert (first.first_scheduled_ns, second.first_scheduled_ns) == (0, 3 * ITERATION_NS)


def test_without_requests_there_is_no_batch():
    assert Bench().scheduler.schedule(0) is None


def test_an_outcome_counts_the_tokens_that_came_out():
    bench = Bench(max_num_batched_tokens=10)
    bench.add("a", prompt=4)
    bench.add("b", prompt=4)
    bench.add("c", prompt=4)  # two tokens of its prompt fit
    bench.step()
    assert bench.outcome.generated_tokens == 2


def test_a_batch_sums_up_its_tokens_and_tells_prompt_from_decode():
    bench = Bench(max_num_batched_tokens=8)
    bench.add("a", prompt=4)
    bench.step()
    bench.add("b", prompt=3)
    bench.add("c", prompt=50)
    assert bench.step() == [("a", 1, 4), ("b", 3, 0), ("c", 4, 0)]
    assert (bench.batch.total_tokens, bench.batch.prompt_tokens, bench.batch.sequences) == (8, 7, 3)


# --- the order in which tokens are given


def test_running_requests_are_served_before_waiting_ones():
    bench = Bench(max_num_batched_tokens=8)
    bench.add("a", prompt=4)
    bench.add("b", prompt=10)
    bench.step()
    bench.add("c", prompt=4)
    assert bench.steps(2) == [
        [("a", 1, 4), ("b", 6, 4), ("c", 1, 0)],
        [("a", 1, 5), ("b", 1, 10), ("c", 3, 1)],
    ]


def test_a_waiting_request_gets_nothing_while_a_running_prompt_takes_the_budget():
    bench = Bench(max_num_batched_tokens=8)
    bench.add("long", prompt=24)
    bench.step()
    bench.add("short", prompt=1)
    assert bench.steps(2) == [[("long", 8, 8)], [("long", 8, 16)]]


def test_fcfs_admits_in_order_of_arrival():
    bench = Bench(max_num_seqs=1)
    for name in "abc":
        bench.add(name, prompt=2, output=1, priority=-ord(name))
    assert bench.run() == [[("a", 2, 0)], [("b", 2, 0)], [("c", 2, 0)]]


def test_priority_admits_the_smallest_number_first():
    bench = Bench(max_num_seqs=1, scheduling_policy="priority")
    for name, priority in [("a", 2), ("b", 0), ("c", 1)]:
        bench.add(name, prompt=2, output=1, priority=priority)
    assert bench.run() == [[("b", 2, 0)], [("c", 2, 0)], [("a", 2, 0)]]


def test_equal_priorities_are_admitted_in_order_of_arrival():
    bench = Bench(max_num_seqs=1, scheduling_policy="priority")
    for name, arrival_ns in [("a", 30), ("b", 10), ("c", 20)]:
        bench.add(name, prompt=2, output=1, priority=5, arrival_ns=arrival_ns)
    assert bench.run() == [[("b", 2, 0)], [("c", 2, 0)], [("a", 2, 0)]]


def test_priority_orders_the_waiting_queue_only_so_a_half_done_prompt_keeps_the_budget():
    bench = Bench(max_num_batched_tokens=8, scheduling_policy="priority")
    bench.add("bulk", prompt=20, priority=9)
    bench.step()
    bench.add("urgent", prompt=2, priority=0)
    assert bench.steps(2) == [[("bulk", 8, 8)], [("bulk", 4, 16), ("urgent", 2, 0)]]


# --- limits of an iteration (INV-6)


def test_the_token_budget_cuts_the_last_prompt():
    bench = Bench(max_num_batched_tokens=10)
    bench.add("a", prompt=6)
    bench.add("b", prompt=6)
    bench.add("c", prompt=6)
    assert bench.step() == [("a", 6, 0), ("b", 4, 0)]


def test_a_token_budget_of_zero_is_no_limit():
    bench = Bench(kv_blocks=10**6, max_num_batched_tokens=0)
    bench.add("a", prompt=3_000_000)
    bench.add("b", prompt=5)
    assert bench.steps(2) == [[("a", 3_000_000, 0), ("b", 5, 0)], [("a", 1, 3_000_000), ("b", 1, 5)]]


def test_the_sequence_limit_holds_a_request_back_until_one_has_finished():
    bench = Bench(max_num_seqs=2)
    bench.add("a", prompt=4, output=2)
    bench.add("b", prompt=4, output=3)
    bench.add("c", prompt=4, output=1)
    assert bench.run() == [
        [("a", 4, 0), ("b", 4, 0)],
        [("a", 1, 4), ("b", 1, 4)],
        [("b", 1, 5), ("c", 4, 0)],
    ]


def test_a_sequence_limit_of_zero_is_no_limit():
    bench = Bench(max_num_seqs=0)
    for number in range(300):
        bench.add(str(number), prompt=1)
    assert len(bench.step()) == 300


def test_the_long_prefill_threshold_cuts_every_chunk_of_a_prompt():
    bench = Bench(max_num_batched_tokens=100, long_prefill_token_threshold=4)
    bench.add("a", prompt=10)
    assert bench.steps(4) == [[("a", 4, 0)], [("a", 4, 4)], [("a", 2, 8)], [("a", 1, 10)]]


def test_the_long_prefill_threshold_leaves_budget_for_those_behind():
    bench = Bench(max_num_batched_tokens=8, long_prefill_token_threshold=5)
    bench.add("long", prompt=100)
    bench.add("short", prompt=3)
    assert bench.steps(2) == [[("long", 5, 0), ("short", 3, 0)], [("long", 5, 5), ("short", 1, 3)]]


# --- without chunked prefill


def test_without_chunks_a_prompt_waits_until_all_of_it_fits_into_the_budget():
    bench = Bench(max_num_batched_tokens=10, enable_chunked_prefill=False)
    bench.add("a", prompt=6, output=2)
    bench.add("b", prompt=10, output=1)
    assert bench.run() == [[("a", 6, 0)], [("a", 1, 6)], [("b", 10, 0)]]


def test_without_chunks_nobody_passes_a_prompt_that_does_not_fit():
    bench = Bench(max_num_batched_tokens=10, enable_chunked_prefill=False)
    bench.add("a", prompt=6)
    bench.add("b", prompt=6)
    bench.add("c", prompt=1)
    assert bench.step() == [("a", 6, 0)]


# --- the KV limit


@pytest.mark.parametrize(
    ("kv_blocks", "batches"),
    [
        (3, [[("a", 4, 0), ("b", 5, 0)], [("a", 1, 4)]]),
        (2, [[("a", 4, 0)], [("a", 1, 4)], [("b", 5, 0)]]),
    ],
)
def test_a_request_waits_until_the_blocks_of_its_prompt_are_free(kv_blocks, batches):
    bench = Bench(kv_blocks=kv_blocks)
    bench.add("a", prompt=4, output=2)  # one block
    bench.add("b", prompt=5, output=1)  # two blocks
    assert bench.run() == batches


def test_blocks_are_taken_as_a_request_grows_into_them():
    bench = Bench()
    bench.add("a", prompt=7)
    used = []
    for _ in range(6):  # 7, 8, 9, ... tokens
        bench.step()
        used.append(bench.kv_cache.used_blocks)
    assert used == [2, 2, 3, 3, 3, 3]


def test_nobody_passes_a_request_whose_blocks_are_not_free():
    bench = Bench(kv_blocks=3)
    bench.add("a", prompt=8)
    bench.add("b", prompt=8)
    bench.add("c", prompt=1)
    assert bench.step() == [("a", 8, 0)]


def test_reserve_full_isl_holds_a_request_back_until_its_whole_prompt_has_room():
    bench = Bench(kv_blocks=4, max_num_batched_tokens=10, reserve_full_isl=True)
    bench.add("a", prompt=6, output=1)
    bench.add("b", prompt=12, output=1)
    assert bench.run() == [[("a", 6, 0)], [("b", 10, 0)], [("b", 2, 10)]]


def test_without_reserve_full_isl_a_request_starts_when_its_first_chunk_has_room():
    bench = Bench(kv_blocks=4, max_num_batched_tokens=10, reserve_full_isl=False)
    bench.add("a", prompt=6, output=1)
    bench.add("b", prompt=12, output=1)
    assert bench.run() == [[("a", 6, 0), ("b", 4, 0)], [("b", 8, 4)]]


def test_a_request_that_outgrows_the_whole_pool_waits_for_good():
    bench = Bench(kv_blocks=2)
    bench.add("a", prompt=8)
    assert bench.run() == [[("a", 8, 0)]]
    assert bench.waiting() == ["a"]


# --- generation only (--gen)


def test_generation_only_runs_one_token_in_the_first_iteration():
    bench = Bench(skip_prefill=True)
    bench.add("a", prompt=7, output=3)
    assert bench.run() == [[("a", 1, 6)], [("a", 1, 7)], [("a", 1, 8)]]


def test_generation_only_still_needs_the_blocks_of_the_prompt():
    bench = Bench(kv_blocks=4, skip_prefill=True)
    bench.add("a", prompt=9, output=2)
    bench.add("b", prompt=8, output=1)
    assert bench.step() == [("a", 1, 8)]
    assert bench.kv_cache.used_blocks == 3
    assert bench.steps(2) == [[("a", 1, 9)], [("b", 1, 7)]]


# --- being interrupted, and what it costs


def test_evicting_all_hands_the_running_requests_out_with_their_progress():
    bench = Bench(max_num_batched_tokens=8)
    first, second = bench.add("a", prompt=4), bench.add("b", prompt=20)
    bench.steps(3)
    assert bench.scheduler.evict_all() == [first, second]
    assert (first.computed, first.generated, first.blocks) == (6, 3, 2)
    assert (second.computed, second.generated, second.blocks) == (18, 0, 5)
    assert first.token_times_ns().tolist() == [100, 200, 300]
    assert bench.running() == []


@pytest.mark.parametrize("output", [1, 40])
def test_memory_stays_flat_over_many_iterations(output):
    """Two requests overlap at any time, so that some request always emits."""
    bench = Bench()
    scheduler, sizes = bench.scheduler, []
    for number in range(16 * 1024):
        for shift in (0, output // 2):
            if (number + shift) % output == 0:
                bench.add("x", prompt=1, output=output)
        scheduler.schedule(number)
        scheduler.complete(number)
        if number % 1024 == 1023:
            sizes.append(len(pickle.dumps(scheduler)))
    assert max(sizes[8:]) <= 1.02 * max(sizes[:8])

"""Specification of batching at prefill and at decode instances, and of prefill before decode.

A batch is written as a list of (request, tokens that it runs, tokens computed before); blocks have 4 tokens.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_builders import Bench

from inference_serving.request import Request, RequestState

# --- a prefill instance hands requests over


def test_a_prefill_instance_hands_a_request_over_with_its_first_token():
    bench = Bench(max_num_batched_tokens=6, hands_over=True)
    request = bench.add("a", prompt=10)
    assert bench.run() == [[("a", 6, 0)], [("a", 4, 6)]]
    assert bench.outcome.handed_over == [request]
    assert request.state is RequestState.TRANSFERRING
    assert request.token_times_ns().tolist() == [200]
    assert (request.computed, request.generated) == (10, 1)


def test_a_request_on_its_way_keeps_its_blocks_until_they_are_released():
    bench = Bench(kv_blocks=4, hands_over=True)
    request = bench.add("a", prompt=12)
    bench.add("b", prompt=8)
    assert bench.run() == [[("a", 12, 0)]]
    bench.scheduler.release(request)
    assert bench.run() == [[("b", 8, 0)]]


def test_a_request_of_one_output_token_finishes_at_the_prefill_instance():
    bench = Bench(hands_over=True)
    request = bench.add("a", prompt=10, output=1)
    bench.step()
    assert (bench.outcome.finished, bench.outcome.handed_over) == ([request], [])
    assert bench.kv_cache.used_blocks == 0


# --- a gate before admission


def test_a_closed_gate_holds_back_a_request_and_those_behind_it():
    opened: set[int] = set()
    bench = Bench(may_admit=lambda request: request.request_id in opened)
    bench.add("a", prompt=4)
    bench.add("b", prompt=4)
    opened.add(1)
    assert bench.step() == []
    opened.add(0)
    assert bench.step() == [("a", 4, 0), ("b", 4, 0)]


def test_the_gate_is_asked_only_about_a_request_that_fits():
    """Because asking reserves blocks at the decode instance."""
    asked: list[int] = []

    def gate(request: Request) -> bool:
        asked.append(request.request_id)
        return True

    bench = Bench(kv_blocks=4, may_admit=gate)
    bench.add("a", prompt=8)
    bench.add("b", prompt=12)
    bench.step()
    assert asked == [0]


# --- requests that land with their KV at a decode instance


def test_a_landed_request_goes_on_with_its_second_token():
    bench = Bench()
    bench.land("a", prompt=7, output=3)
    assert bench.run() == [[("a", 1, 7)], [("a", 1, 8)]]


def test_a_landed_request_takes_only_the_blocks_it_does_not_hold_yet():
    bench = Bench(kv_blocks=3)
    bench.land("a", prompt=8)
    assert bench.step() == [("a", 1, 8)]
    assert bench.kv_cache.used_blocks == 3


def test_a_landed_request_passes_one_without_kv_that_does_not_fit():
    bench = Bench(kv_blocks=4)
    bench.add("a", prompt=16)
    bench.add("b", prompt=1)
    bench.land("c", prompt=8)
    assert bench.step() == [("c", 1, 8)]


def test_requests_without_their_kv_here_make_an_instance_starved():
    bench = Bench(max_num_seqs=1)
    bench.land("a", prompt=8)
    bench.land("b", prompt=8)
    assert not bench.scheduler.starved
    bench.add("c", prompt=8)
    assert bench.scheduler.starved


def test_when_landed_requests_hold_all_blocks_the_last_gives_its_kv_up():
    bench = Bench(kv_blocks=4)
    bench.land("a", prompt=8, output=2)
    last = bench.land("b", prompt=8, output=2)
    assert bench.step() == [("a", 1, 8)]
    assert (last.preemptions, last.blocks) == (1, 0)
    assert bench.scheduler.starved


def test_landed_kv_that_was_given_up_is_recomputed_with_the_first_token():
    bench = Bench(kv_blocks=4)
    bench.land("a", prompt=8, output=2)
    bench.land("b", prompt=8, output=3)
    assert bench.run() == [[("a", 1, 8)], [("b", 9, 0)], [("b", 1, 9)]]


def test_a_running_request_takes_the_blocks_of_one_that_waits_before_it_gives_way_itself():
    bench = Bench(kv_blocks=3, max_num_seqs=1)
    runs = bench.land("a", prompt=7)
    waits = bench.land("b", prompt=4)
    assert bench.steps(2) == [[("a", 1, 7)], [("a", 1, 8)]]
    assert (runs.preemptions, waits.preemptions) == (0, 1)


def test_the_tail_of_the_running_list_gives_way_before_a_landed_request_that_waits():
    bench = Bench(kv_blocks=5, max_num_seqs=2)
    bench.land("a", prompt=7)
    tail = bench.land("b", prompt=4)
    waits = bench.land("c", prompt=4)
    assert bench.steps(2) == [[("a", 1, 7), ("b", 1, 4)], [("a", 1, 8)]]
    assert (tail.preemptions, waits.preemptions) == (1, 0)


# --- prefill before decode (--prioritize-prefill)


def test_prefill_gets_the_budget_before_decode():
    bench = Bench(max_num_batched_tokens=4, prioritize_prefill=True)
    bench.add("a", prompt=4)
    bench.step()
    bench.add("b", prompt=6)
    assert bench.steps(2) == [[("b", 4, 0)], [("a", 1, 4), ("b", 2, 4)]]


def test_a_batch_counts_only_the_sequences_that_run():
    bench = Bench(max_num_batched_tokens=4, prioritize_prefill=True)
    bench.add("a", prompt=4)
    bench.step()
    bench.add("b", prompt=6)
    bench.step()
    assert (bench.batch.grants.tolist(), bench.batch.sequences) == ([0, 4], 1)


def test_a_running_prompt_comes_before_a_waiting_one():
    bench = Bench(max_num_batched_tokens=4, prioritize_prefill=True)
    bench.add("a", prompt=6)
    bench.step()
    bench.add("b", prompt=6)
    assert bench.steps(2) == [[("a", 2, 4), ("b", 2, 0)], [("b", 4, 2)]]


def test_a_token_that_prefill_held_up_comes_out_when_it_was_computed():
    bench = Bench(max_num_batched_tokens=4, prioritize_prefill=True)
    request = bench.add("a", prompt=4, output=3)
    bench.step()
    bench.add("b", prompt=6)
    bench.run()
    assert request.token_times_ns().tolist() == [100, 300, 400]


def test_under_prefill_before_decode_a_victim_does_not_come_back_in_the_iteration_it_made_room_in():
    """Else b would find no block, give way, and be admitted again with the block that a needs, for ever."""
    bench = Bench(
        kv_blocks=3, block_size=2, max_num_batched_tokens=2, prioritize_prefill=True, reserve_full_isl=False
    )
    bench.add("a", prompt=3, output=2)
    bench.add("b", prompt=3, output=1)
    assert bench.run(most=20) == [
        [("a", 2, 0)],
        [("a", 1, 2), ("b", 1, 0)],
        [("a", 1, 3)],
        [("b", 2, 0)],
        [("b", 1, 2)],
    ]


def test_a_request_that_gives_way_in_the_planning_of_its_first_iteration_is_not_yet_scheduled():
    bench = Bench(kv_blocks=4, block_size=1, max_num_batched_tokens=4, prioritize_prefill=True)
    bench.add("a", prompt=2, output=2)
    bench.step()
    late = bench.add("b", prompt=2, output=1)
    assert bench.step() == [("a", 1, 2)]
    assert late.first_scheduled_ns == -1
    bench.step()
    assert late.first_scheduled_ns == 200


def test_tokens_that_a_victim_gives_back_go_to_the_rows_behind():
    """x takes two tokens of three and the last block; a needs that block, and then there are tokens for b too."""
    bench = Bench(
        kv_blocks=3,
        max_num_batched_tokens=3,
        long_prefill_token_threshold=2,
        prioritize_prefill=True,
        reserve_full_isl=False,
    )
    bench.add("a", prompt=3, output=5)
    bench.add("b", prompt=1, output=5)
    bench.steps(3)
    bench.add("x", prompt=8, output=1)
    assert bench.step() == [("a", 1, 4), ("b", 1, 3)]


lengths = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 8)), min_size=1, max_size=6)


@settings(max_examples=200)
@given(
    lengths,
    st.sampled_from([1, 2, 4]),
    st.sampled_from([2, 5, 64]),
    st.integers(0, 3),
    st.sampled_from(["fcfs", "priority"]),
)
def test_prefill_before_decode_ends_with_every_token_however_short_kv_is(
    pairs, block_size, budget, spare_blocks, policy
):
    longest = max(prompt + output for prompt, output in pairs)
    bench = Bench(
        kv_blocks=-(-longest // block_size) + spare_blocks,
        block_size=block_size,
        max_num_batched_tokens=budget,
        prioritize_prefill=True,
        reserve_full_isl=False,
        scheduling_policy=policy,
    )
    served = [
        bench.add(str(number), prompt, output, priority=number % 3)
        for number, (prompt, output) in enumerate(pairs)
    ]
    bench.run(most=2000)
    assert [request.token_times_ns().size for request in served] == [output for _, output in pairs]  # INV-1
    assert bench.kv_cache.used_blocks == 0  # INV-2

"""Batches with draft tokens: how many are granted, how many are kept, and what that does to tokens and KV blocks.

A batch is written as a list of (request, tokens that it runs, tokens computed before); blocks have 4 tokens.
"""

from __future__ import annotations

from itertools import takewhile
from math import ceil, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_builders import ITERATION_NS, Bench, Item, SpeculativeBench
from test_scheduler_reference import (
    Arrival,
    Plain,
    PlainScheduler,
    blocks_for_the_longest,
    limits,
    workloads,
)

from inference_serving.kv_cache import KvCache
from inference_serving.settings import SchedulerSettings
from inference_serving.speculation.drafts import DraftStatistics, Speculation
from inference_serving.speculation.scheduler import SpeculativeBatch, SpeculativeScheduler

ENDLESS = 10**6

# --- one request


def test_with_every_draft_accepted_each_iteration_brings_one_token_more_than_there_are_drafts():
    bench = SpeculativeBench(drafts=3, acceptance_rate=1)
    request = bench.add("a", 6, 10)
    assert bench.run() == [[("a", 6, 0)], [("a", 4, 6)], [("a", 4, 10)], [("a", 1, 14)]]
    assert request.token_times_ns().tolist() == [100, *[200] * 4, *[300] * 4, 400]
    assert bench.scheduler.draft_statistics == DraftStatistics(2, 6, 6)


def test_with_no_draft_accepted_tokens_come_as_without_drafts_but_cost_more():
    drafting, plain = SpeculativeBench(drafts=3, acceptance_rate=0), Bench()
    requests = [bench.add("a", 6, 6) for bench in (drafting, plain)]
    assert drafting.run() == [
        [("a", 6, 0)],
        *([("a", n, 10 - m)] for n, m in ((4, 4), (4, 3), (3, 2), (2, 1), (1, 0))),
    ]
    plain.run()
    assert requests[0].token_times_ns().tolist() == requests[1].token_times_ns().tolist()
    assert drafting.scheduler.draft_statistics == DraftStatistics(4, 9, 0)


def test_drafts_end_where_the_request_ends():
    bench = SpeculativeBench(drafts=8, acceptance_rate=1)
    bench.add("a", 6, 4)
    assert bench.run() == [[("a", 6, 0)], [("a", 3, 6)]]


@given(st.integers(1, 60), st.integers(1, 9))
def test_a_request_takes_as_many_iterations_as_its_tokens_fill(output, drafts):
    bench = SpeculativeBench(drafts, acceptance_rate=1)
    bench.add("a", 5, output)
    assert len(bench.run()) == 1 + ceil((output - 1) / (1 + drafts))


@pytest.mark.parametrize(("drafts", "rate"), [(1, 0.3), (3, 0.6), (4, 0.8), (7, 0.95)])
def test_tokens_of_an_iteration_are_distributed_as_theory_has_it(drafts, rate):
    """Leviathan et al. (ICML 2023), eq. 1, and the capped geometric distribution whose mean it is."""
    bench = SpeculativeBench(drafts, rate)
    requests = [bench.add(str(number), 4, ENDLESS) for number in range(200)]
    bench.steps(101)
    bench.scheduler.evict_all()
    brought = np.concatenate([np.unique(one.token_times_ns()[1:], return_counts=True)[1] for one in requests])
    chance = np.array([rate**n * (1 - rate) for n in range(drafts)] + [rate**drafts])
    deviation = np.sqrt(chance * (1 - chance) / brought.size)
    assert brought.size == 200 * 100
    assert np.abs(np.bincount(brought)[1:] / brought.size - chance) == pytest.approx(
        0, abs=4 * deviation.max()
    )
    expected = (1 - rate ** (drafts + 1)) / (1 - rate)
    assert Speculation(drafts, rate).expected_tokens == pytest.approx(expected)
    assert brought.mean() == pytest.approx(expected, abs=4 * brought.std() / sqrt(brought.size))
    assert bench.scheduler.draft_statistics.mean_acceptance_length == pytest.approx(brought.mean())


# --- who gets drafts


def test_a_prompt_has_no_drafts_not_even_its_last_token():
    bench = SpeculativeBench(drafts=3, acceptance_rate=1, max_num_batched_tokens=4)
    bench.add("a", 5, 9)
    assert bench.steps(3) == [[("a", 4, 0)], [("a", 1, 4)], [("a", 4, 5)]]


def test_a_request_that_lands_with_its_kv_gets_drafts_after_its_first_token_here():
    bench = SpeculativeBench(drafts=2, acceptance_rate=1)
    bench.land("a", 7, 9)
    assert bench.steps(2) == [[("a", 1, 7)], [("a", 3, 8)]]


def test_where_the_budget_ends_there_are_fewer_drafts_and_then_none():
    bench = SpeculativeBench(drafts=3, acceptance_rate=0, max_num_batched_tokens=9)
    for name in "abc":
        bench.add(name, 3, 9)
    assert bench.steps(2)[1] == [("a", 4, 3), ("b", 4, 3), ("c", 1, 3)]
    assert isinstance(bench.batch, SpeculativeBatch)
    assert bench.batch.drafts.tolist() == [3, 3, 0]


def test_drafts_that_the_budget_held_up_are_verified_later():
    bench = SpeculativeBench(drafts=3, acceptance_rate=1, max_num_batched_tokens=4)
    bench.add("a", 2, 6)
    bench.add("b", 2, 9)
    assert bench.steps(3) == [[("a", 2, 0), ("b", 2, 0)], [("a", 4, 2)], [("a", 1, 6), ("b", 3, 2)]]


def test_a_request_that_gave_way_has_no_drafts_until_it_emits_again():
    bench = SpeculativeBench(drafts=3, acceptance_rate=0, kv_blocks=4)
    bench.add("a", 6, 8)
    victim = bench.add("b", 6, 4)
    assert bench.steps(2) == [[("a", 6, 0), ("b", 6, 0)], [("a", 4, 6)]]
    assert (victim.generated, victim.computed, victim.preemptions) == (1, 0, 1)
    grants = [tokens for batch in bench.run() for name, tokens, _ in batch if name == "b"]
    assert grants == [7, 2, 1]  # prompt and first token again, then drafts as long as tokens are left


# --- KV


def test_blocks_of_rejected_drafts_stay_and_are_used_by_the_next_tokens():
    bench = SpeculativeBench(drafts=7, acceptance_rate=0)
    bench.add("a", 4, 20)
    assert bench.steps(2) == [[("a", 4, 0)], [("a", 8, 4)]]
    assert bench.kv_cache.used_blocks == 3
    bench.steps(1)
    assert bench.kv_cache.used_blocks == 4  # for tokens 5 to 12, one block more than for 4 to 11


# --- what a batch asks of layers


def test_the_head_runs_on_every_draft_and_once_for_each_sequence():
    bench = SpeculativeBench(drafts=2, acceptance_rate=1)
    bench.add("a", 5, 9)
    bench.step()
    bench.add("b", 7, 9)
    bench.step()
    batch = bench.batch
    assert (batch.total_tokens, batch.sequences, batch.logit_rows, batch.draft_steps) == (10, 2, 4, 2)


def attention_of(bench: Bench) -> list[list[int]]:
    return [part.tolist() for part in bench.batch.attention()]


def test_beside_a_prompt_rows_with_drafts_are_priced_as_decodes_of_all_their_tokens():
    bench = SpeculativeBench(drafts=2, acceptance_rate=1)
    bench.add("a", 5, 9)
    bench.step()
    bench.add("b", 7, 9)
    bench.step()
    assert attention_of(bench) == [[7], [0], [8]]
    assert [part.tolist() for part in bench.batch.prefill_chunks()] == [[7], [0]]


def test_without_a_prompt_the_longest_row_with_drafts_is_priced_as_a_chunk():
    bench = SpeculativeBench(drafts=2, acceptance_rate=1)
    for name, prompt, output in (("a", 5, 9), ("b", 7, 9), ("longest", 30, 2)):
        bench.add(name, prompt, output)
    assert bench.steps(2)[1] == [("a", 3, 5), ("b", 3, 7), ("longest", 1, 30)]
    assert attention_of(bench) == [[3], [7], [8, 31]]
    assert not bench.batch.prefill_chunks()[0].size


def test_a_batch_without_any_draft_is_an_ordinary_one():
    bench = SpeculativeBench(drafts=2, acceptance_rate=1)
    bench.add("a", 5, 2)
    bench.steps(2)
    assert not isinstance(bench.batch, SpeculativeBatch)


def test_a_scheduler_without_drafts_is_a_mistake():
    with pytest.raises(ValueError, match="speculation"):
        SpeculativeScheduler(SchedulerSettings(), KvCache(8, 4), np.random.default_rng(0))


# --- against a slow scheduler that is obviously right, under every limit


class PlainSpeculator(PlainScheduler):
    """vLLM's rule with drafts: one after the other is drawn for until one fails."""

    def __init__(self, settings: SchedulerSettings, kv_blocks: int, rng: np.random.Generator) -> None:
        super().__init__(settings, kv_blocks)
        self.speculation, self.rng = settings.speculation, rng

    def accepted(self, drafts: int) -> int:
        draws = [self.rng.random() for _ in range(self.speculation.num_tokens)] if drafts else []
        passed = takewhile(lambda draw: draw < self.speculation.acceptance_rate, draws[:drafts])
        return len(list(passed))

    def step(self, end_ns: int) -> list[Item]:
        batch, preempted = self.form()
        while preempted and not batch:
            batch, preempted = self.form()
        granted = {name: tokens for name, tokens, _ in batch}
        for request in [one for one in self.running if one.name in granted]:
            tokens, lacking = granted[request.name], request.known - request.computed
            if tokens < lacking:
                request.computed += tokens
                continue
            accepted = self.accepted(tokens - lacking)
            request.token_times_ns += [end_ns] * (accepted + 1)
            request.known += accepted + 1
            request.computed = request.known - 1
            request.drafts = min(self.speculation.num_tokens, request.end - request.known - 1)
            if request.known == request.end:
                self.running.remove(request)
        return batch


def check_same_batches(
    workload: list[Arrival], kv_blocks: int, speculation: Speculation, **settings_: Any
) -> None:
    bench = SpeculativeBench(speculation.num_tokens, speculation.acceptance_rate, kv_blocks, 7, **settings_)
    reference = PlainSpeculator(bench.settings, kv_blocks, np.random.default_rng(7))
    pairs, pending, iteration = [], list(workload), 0
    while pending or reference.running or reference.waiting:
        while pending and pending[0].iteration <= iteration:
            new, number = pending.pop(0), len(pairs)
            ours = bench.add(str(number), new.prompt, new.output, priority=new.priority, arrival_ns=number)
            rank = (new.priority, number) if bench.settings.scheduling_policy == "priority" else (number,)
            plain = Plain(str(number), rank, known=new.prompt, end=new.prompt + new.output)
            reference.waiting.append(plain)
            pairs.append((ours, plain))
        expected = reference.step(bench.now_ns + ITERATION_NS)
        batch = bench.step()
        assert batch == expected, f"iteration {iteration}"
        assert batch or pending, "requests are left but nothing can run"
        assert sum(tokens for _, tokens, _ in batch) <= bench.settings.token_budget  # INV-6
        held = sum(bench.kv_cache.blocks_for(one.held) for one in reference.running)
        assert bench.kv_cache.used_blocks == held <= kv_blocks  # INV-2
        iteration += 1
    for ours, plain in pairs:
        assert ours.token_times_ns().tolist() == plain.token_times_ns
        assert ours.token_times_ns().size == ours.output_tokens  # INV-1
        assert ours.preemptions == plain.preemptions
    assert bench.kv_cache.used_blocks == 0


speculations = st.builds(Speculation, st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.9, 1.0]))


@settings(max_examples=200)
@given(workloads, limits, st.integers(0, 6), st.sampled_from(["fcfs", "priority"]), speculations)
def test_the_same_batches_are_formed_however_short_kv_is(workload, limits, spare_blocks, policy, speculation):
    kv_blocks = blocks_for_the_longest(workload, limits["block_size"]) + spare_blocks
    check_same_batches(workload, kv_blocks, speculation, scheduling_policy=policy, **limits)


@settings(max_examples=100)
@given(workloads, limits, st.integers(0, 6), speculations)
def test_prefill_before_decode_ends_with_every_token(workload, limits, spare_blocks, speculation):
    kv_blocks = blocks_for_the_longest(workload, limits["block_size"]) + spare_blocks
    rate = speculation.acceptance_rate
    bench = SpeculativeBench(speculation.num_tokens, rate, kv_blocks, prioritize_prefill=True, **limits)
    served = [bench.add(str(number), one.prompt, one.output) for number, one in enumerate(workload)]
    bench.run(most=3000)
    assert [one.token_times_ns().size for one in served] == [one.output for one in workload]  # INV-1
    assert all((np.diff(one.token_times_ns()) >= 0).all() for one in served)  # INV-4
    assert bench.kv_cache.used_blocks == 0  # INV-2

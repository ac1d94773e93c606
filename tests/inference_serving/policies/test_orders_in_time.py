"""Specification of the orders by age, slack and feedback, on cases small enough to work out by hand.

A token takes a nanosecond and an iteration has up to 100 tokens, so a prompt's isolated time is its length.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_driver import BUDGET, LinearCosts, Prompt, by_arrival, drive, driver

from inference_serving.policies import make_prefill_policy
from inference_serving.policies.prefill import PrefillJob

NS = 1e-9


prompts = st.lists(st.builds(Prompt, st.integers(0, 1500), st.integers(1, 600)), min_size=1, max_size=8).map(
    by_arrival
)


# --- shortest remaining with aging


@pytest.mark.parametrize(
    ("aging", "ends"), [(0, {1: 200, 0: 330}), (1, {1: 200, 0: 330}), (2, {0: 300, 1: 330})]
)
def test_a_short_prompt_passes_until_the_age_of_the_other_makes_up_for_its_length(aging, ends):
    # at 100: remaining 200 of the first, which arrived at 0; 30 of the second, 90 later
    episode = drive("srpt-aging", [Prompt(0, 300), Prompt(90, 30)], aging=aging)
    assert episode.end_ns == ends


@given(prompts)
def test_without_aging_it_is_srpt(arrivals):
    assert drive("srpt-aging", arrivals, aging=0).steps == drive("srpt", arrivals).steps


# --- highest response ratio


def test_hrrn_serves_who_would_end_with_the_greatest_slowdown():
    # at 100: (90 + 600) / 600 = 1.15 against (10 + 200) / 200 = 1.05
    # at 200: still 1.15 against (110 + 200) / 200 = 1.55, which stays ahead until it is done
    episode = drive("hrrn", [Prompt(0, 100), Prompt(10, 600), Prompt(90, 200)])
    assert episode.end_ns == {0: 100, 2: 400, 1: 900}
    assert [list(ran) for ran in episode.ran[:4]] == [[0], [1], [2], [2]]


@given(prompts, st.sampled_from([0.5, 2.0, 8.0]))
def test_the_relative_slack_of_lars_is_the_factor_less_the_ratio_of_hrrn(arrivals, slo_factor):
    lars = make_prefill_policy("lars", {"slo_factor": str(slo_factor)}, LinearCosts(), BUDGET)
    hrrn = make_prefill_policy("hrrn", {}, LinearCosts(), BUDGET)
    for number, prompt in enumerate(arrivals):
        for policy in (lars, hrrn):
            job = PrefillJob(number, prompt.arrival_ns, number, prompt.tokens)
            policy.on_arrival(job, prompt.arrival_ns)
    slack, ratio = lars.scores(2000), hrrn.scores(2000)
    assert slack == pytest.approx(slo_factor + ratio)


# --- slack


@pytest.mark.parametrize(
    ("slo_factor", "ends"), [(5, {0: 100, 2: 300, 1: 900}), (0, {0: 100, 1: 800, 2: 900})]
)
def test_slack_edf_takes_the_time_still_to_run_off_the_deadline(slo_factor, ends):
    # with 5: 10 + 3000 - 600 against 90 + 1000 - 200; with 0, deadlines past at once: 10 - 600 against 90 - 200,
    # until at 600 it is 10 - 100
    episode = drive("slack-edf", [Prompt(0, 100), Prompt(10, 600), Prompt(90, 200)], slo_factor=slo_factor)
    assert episode.end_ns == ends


def test_a_constant_for_all_does_not_change_the_order_of_slacks():
    arrivals = [Prompt(0, 100), Prompt(10, 600), Prompt(90, 200), Prompt(95, 30)]
    assert drive("slack-edf", arrivals, constant=3).steps == drive("slack-edf", arrivals).steps


def test_lars_divides_the_slack_by_the_length():
    # at 100: (1200 - 100 - 500) / 600 = 1 against (190 - 100 - 50) / 50 = 0.8
    episode = drive("lars", [Prompt(0, 600), Prompt(90, 50)], slo_factor=2)
    assert episode.end_ns == {1: 200, 0: 650}


def test_a_floor_under_the_targets_makes_short_prompts_wait_until_it_is_near():
    # the second has until 1090: (1090 - t - 50) / 50 stays above 1 until 990
    episode = drive("lars", [Prompt(0, 600), Prompt(90, 50)], slo_factor=2, floor=1000 * NS)
    assert episode.end_ns == {0: 600, 1: 650}


# --- multi-level feedback

QUEUES = {"levels": 3, "quantum": 100 * NS, "growth": 2, "starvation": 0}


def test_mlfq_puts_a_prompt_into_the_first_queue_whose_quantum_it_fits():
    one = driver("mlfq", **QUEUES)
    jobs = [one.arrive(Prompt(0, tokens), 0) for tokens in (100, 101, 200, 201, 9999)]
    assert [one.policy.level_of(job) for job in jobs] == [0, 1, 1, 2, 2]


def test_mlfq_serves_its_queues_strictly_in_order():
    episode = drive("mlfq", [Prompt(0, 500), Prompt(50, 150), Prompt(60, 80)], **QUEUES)
    assert episode.end_ns == {2: 200, 1: 400, 0: 730}


def test_mlfq_serves_a_queue_in_order_of_arrival():
    assert drive("mlfq", [Prompt(0, 90), Prompt(1, 99), Prompt(2, 50)], **QUEUES).order == [0, 1, 2]


def test_a_prompt_that_starves_goes_to_the_first_queue_and_sinks_again_as_it_runs():
    one = driver("mlfq", **{**QUEUES, "starvation": 300 * NS})
    long = one.arrive(Prompt(0, 500), 0)
    levels, computed = [], []
    for _ in range(12):
        one.arrive(Prompt(one.now_ns, 100), one.now_ns)
        one.step()
        levels.append(one.policy.level_of(long))
        computed.append(long.computed)
    # it has not run for 300 at 300; one prompt is ahead of it in the first queue, its quantum is one chunk;
    # from the second queue it starves again, and finds two prompts ahead
    assert levels == [2, 2, 2, 0, 1, 1, 1, 1, 0, 0, 1, 1]
    assert computed == [0, 0, 0, 0, 100, 100, 100, 100, 100, 100, 200, 200]


def test_nobody_is_promoted_where_that_is_turned_off():
    one = driver("mlfq", **QUEUES)
    long = one.arrive(Prompt(0, 500), 0)
    for _ in range(50):
        one.arrive(Prompt(one.now_ns, 100), one.now_ns)
        one.step()
    assert (one.policy.level_of(long), long.computed) == (2, 0)

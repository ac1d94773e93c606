"""Specification of fair shares and caps on partial prefills, on cases small enough to work out by hand.

A token takes a nanosecond and an iteration has up to 100 tokens, so a prompt's isolated time is its length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_driver import Prompt, by_arrival, drive, driver

from inference_serving.policies.fair import ProcessorSharing

prompts = st.lists(st.builds(Prompt, st.integers(0, 1500), st.integers(1, 600)), min_size=1, max_size=8).map(
    by_arrival
)


# --- fair sojourn


def test_processor_sharing_completes_in_order_of_its_tags():
    shared = ProcessorSharing()
    # 30 served to each of the first two by 60
    assert [shared.enter(100, 0), shared.enter(50, 0), shared.enter(30, 60)] == [100, 50, 60]
    # 3 x 20 more: the second is done at 120; 2 x 10 more: the third at 140; the first, 40 short, at 180
    assert [shared.unfinished(now) for now in (119, 120, 139, 140, 179, 180)] == [3, 2, 2, 1, 1, 0]


def sharing_ends(arrivals: Sequence[Prompt]) -> list[float]:
    """Completions under processor sharing, simulated event by event."""
    left = {number: float(prompt.tokens) for number, prompt in enumerate(arrivals)}
    ends, now = [0.0] * len(arrivals), 0.0
    while left:
        here = [number for number in left if arrivals[number].arrival_ns <= now]
        coming = [arrivals[number].arrival_ns for number in left if arrivals[number].arrival_ns > now]
        if not here:
            now = min(coming)
            continue
        step = min(min(left[number] for number in here) * len(here), min(coming, default=math.inf) - now)
        now += step
        for number in here:
            left[number] -= step / len(here)
            if left[number] < 1e-6:
                ends[number] = now
                del left[number]
    return ends


@given(prompts)
def test_processor_sharing_agrees_with_a_plain_simulation(arrivals):
    shared, ends = ProcessorSharing(), sharing_ends(arrivals)
    tags = [shared.enter(prompt.tokens, prompt.arrival_ns) for prompt in arrivals]
    together = [number for number, end in enumerate(ends) if end > arrivals[-1].arrival_ns]
    by_tag = sorted(together, key=lambda number: tags[number])
    assert [ends[number] for number in by_tag] == pytest.approx(sorted(ends[number] for number in together))
    assert shared.unfinished(math.ceil(max(ends) + 1)) == 0


def test_fsp_goes_by_virtual_completion_and_not_by_remaining_time():
    # by 100 the first two have been served 50 each, so the third, 260 long, would end at 310 and the first at 300
    arrivals = [Prompt(0, 300), Prompt(0, 100), Prompt(100, 260)]
    assert drive("fsp", arrivals).order == [1, 0, 2]
    assert drive("srpt", arrivals).order == [1, 2, 0]


@given(
    st.lists(st.builds(Prompt, st.integers(0, 60), st.integers(1, 30)), min_size=1, max_size=6).map(
        by_arrival
    )
)
def test_nobody_ends_later_under_fsp_than_under_processor_sharing(arrivals):
    episode = drive("fsp", arrivals, budget=1)  # a boundary at every arrival, as the theorem has it
    for number, end in enumerate(sharing_ends(arrivals)):
        assert episode.end_ns[number] <= end + 1e-3


def test_a_prompt_that_was_sent_back_keeps_its_virtual_completion():
    one = driver("fsp")
    first = one.arrive(Prompt(0, 150), 0)
    one.step()
    one.policy.on_finish(first, 100)
    one.unfinished.remove(first)
    one.arrive(Prompt(100, 120), 100)
    one.episode.jobs.append(first)
    first.computed = 0
    one.policy.on_arrival(first, 100)
    one.unfinished.append(first)
    one.run([])
    assert one.episode.order == [0, 1]


# --- virtual token counter


def test_vtc_serves_the_client_that_has_had_the_fewest_tokens():
    arrivals = [Prompt(0, 100, client) for client in ("a", "a", "a", "b")]
    assert drive("vtc", arrivals).order == [0, 3, 1, 2]


def test_a_client_that_comes_back_has_saved_nothing_up():
    # b comes at 250, when 200 tokens have been charged to a: it starts from there, not from nothing
    arrivals = [Prompt(0, 100, "a")] * 5 + [Prompt(250, 100, "b")] * 3
    assert drive("vtc", arrivals).order == [0, 1, 2, 5, 3, 6, 4, 7]


def test_a_client_that_comes_when_nobody_is_there_starts_from_the_last_who_left():
    one = driver("vtc")
    one.run([Prompt(0, 100, "a")])
    one.arrive(Prompt(500, 100, "b"), 500)
    assert one.policy.served_tokens("client b") == one.policy.served_tokens("client a") == 100


def test_prompts_without_a_client_are_two_clients_the_long_and_the_short():
    arrivals = [Prompt(0, 400), Prompt(50, 100), Prompt(50, 100), Prompt(50, 100)]
    episode = drive("vtc", arrivals, long_tokens=400)
    assert [list(ran) for ran in episode.ran] == [[0], [1], [0], [2], [0], [3], [0]]
    assert drive("vtc", arrivals, long_tokens=0).order == [0, 1, 2, 3]


def test_a_batch_counts_what_it_already_holds():
    arrivals = [Prompt(0, 30, "a")] * 3 + [Prompt(0, 30, "b")] * 3
    assert list(drive("vtc", arrivals).ran[0]) == [0, 3, 1, 4]


# --- long-prefill caps

CAPS = {
    "long_prefill_token_threshold": 50,
    "max_num_partial_prefills": 2,
    "max_long_partial_prefills": 1,
}


def test_with_one_partial_prefill_it_is_first_come_first_served():
    arrivals = [Prompt(0, 300), Prompt(0, 300), Prompt(0, 40)]
    caps = {**CAPS, "max_num_partial_prefills": 1}
    assert drive("long-caps", arrivals, **caps).steps == drive("arrival-order", arrivals).steps


def test_a_short_prompt_passes_a_long_one_that_waits_for_a_slot():
    episode = drive("long-caps", [Prompt(0, 300), Prompt(0, 300), Prompt(0, 40)], **CAPS)
    # shares of 50, and the 10 that the short one leaves; the second long waits until 40 are left of the first
    assert episode.ran == [
        {0: 60, 2: 40},
        {0: 100},
        {0: 100},
        {0: 40, 1: 60},
        {1: 100},
        {1: 100},
        {1: 40},
    ]


def test_two_long_prompts_share_the_budget_where_two_may():
    caps = {**CAPS, "max_long_partial_prefills": 2}
    episode = drive("long-caps", [Prompt(0, 150), Prompt(0, 200)], **caps)
    assert episode.ran == [{0: 50, 1: 50}, {0: 50, 1: 50}, {0: 50, 1: 50}, {1: 50}]


def test_no_more_than_the_cap_are_half_done():
    arrivals = [Prompt(0, 45)] * 3 + [Prompt(0, 40)] * 3
    episode = drive("long-caps", arrivals, **CAPS)
    assert episode.ran[0] == {0: 45, 1: 45, 2: 10}
    assert episode.ran[1] == {2: 35, 3: 40, 4: 25}


@given(prompts, st.integers(1, 4), st.integers(1, 4), st.sampled_from([{}, {"groups": 4}, {"density": True}]))
def test_the_caps_hold_after_every_iteration(arrivals, most, most_long, mode):
    caps = {"max_num_partial_prefills": most, "max_long_partial_prefills": min(most, most_long)}
    episode = drive("long-caps", arrivals, long_prefill_token_threshold=200, **caps, **mode)
    computed = [0] * len(arrivals)
    begun: set[int] = set()
    for step in episode.steps:
        for part in step.parts:
            begun.add(part.prompt)
            computed[part.prompt] += part.tokens * (part.group == part.groups - 1)
        left = [arrivals[number].tokens - computed[number] for number in begun]
        assert sum(tokens > 0 for tokens in left) <= most
        assert sum(tokens > 200 for tokens in left) <= caps["max_long_partial_prefills"]

"""What holds for every prefill policy there is, whatever arrives and whatever its options."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_driver import BUDGET, Episode, LinearCosts, Prompt, by_arrival, drive, driver

from inference_serving.policies import prefill_policy_names
from inference_serving.policies.prefill import PrefillJob

COSTS = LinearCosts(fixed_ns=20, token_ns=3, pair_ns=1)

every_policy = pytest.mark.parametrize("name", prefill_policy_names())
arrivals_of = st.lists(
    st.builds(Prompt, st.integers(0, 5000), st.integers(1, 500), st.sampled_from(["", "a", "b"])),
    min_size=1,
    max_size=10,
).map(by_arrival)
options_of = st.fixed_dictionaries(
    {
        "chunk": st.sampled_from([0, 30, 64, 1000]),
        "density": st.booleans(),
        "groups": st.sampled_from([1, 4]),
        "tau": st.sampled_from([0.0, 1e-6]),
    }
)


def check_parts(episode: Episode, prompts: list[Prompt]) -> None:
    """Every prompt runs from its first token to its last, each once, in chunks whose groups follow each other."""
    computed = dict.fromkeys(range(len(prompts)), 0)
    held: dict[int, tuple[int, int]] = {}
    for step in episode.steps:
        assert sum(part.tokens for part in step.parts) <= BUDGET
        assert len({part.prompt for part in step.parts}) == len(step.parts)
        assert len(step.parts) == 1 or all(part.groups == 1 for part in step.parts)
        for part in step.parts:
            assert part.tokens > 0
            assert part.context == computed[part.prompt]
            assert (part.group, part.tokens) == held.pop(part.prompt, (0, part.tokens))
            if part.group < part.groups - 1:
                held[part.prompt] = (part.group + 1, part.tokens)
            else:
                computed[part.prompt] += part.tokens
    assert computed == {number: prompt.tokens for number, prompt in enumerate(prompts)}
    assert not held


@every_policy
@settings(max_examples=30)
@given(arrivals_of, options_of)
def test_every_prompt_is_computed_once_and_keeps_its_progress_through_pauses(name, prompts, options):
    episode = drive(name, prompts, COSTS, **options)
    check_parts(episode, prompts)
    assert sorted(episode.end_ns) == list(range(len(prompts)))
    assert all(job.remaining_ns == 0 for job in episode.jobs)


@every_policy
@settings(max_examples=30)
@given(arrivals_of, options_of)
def test_the_instance_is_idle_only_while_nothing_is_there(name, prompts, options):
    episode = drive(name, prompts, COSTS, **options)
    before_ns = 0
    for step in episode.steps:
        if step.start_ns > before_ns:
            assert step.start_ns == min(p.arrival_ns for p in prompts if p.arrival_ns >= before_ns)
            assert all(
                episode.end_ns[number] <= before_ns
                for number, prompt in enumerate(prompts)
                if prompt.arrival_ns < step.start_ns
            )
        assert step.end_ns > step.start_ns
        before_ns = step.end_ns


@every_policy
@settings(max_examples=30)
@given(arrivals_of, options_of)
def test_a_predicted_chunk_that_runs_alone_takes_as_long_as_planned(name, prompts, options):
    episode = drive(name, prompts, COSTS, **options)
    for step in episode.steps:
        part = step.parts[0]
        if len(step.parts) == 1 and part.context in episode.jobs[part.prompt].forecast.tokens:
            assert part.planned_ns == step.end_ns - step.start_ns


@every_policy
@settings(max_examples=20)
@given(arrivals_of, options_of)
def test_the_same_arrivals_give_the_same_steps(name, prompts, options):
    assert drive(name, prompts, COSTS, **options).steps == drive(name, prompts, COSTS, **options).steps


@every_policy
@settings(max_examples=20)
@given(arrivals_of, options_of)
def test_times_left_are_never_negative_and_only_fall(name, prompts, options):
    one = driver(name, COSTS, **options)
    jobs = [one.arrive(replace(prompt, arrival_ns=0), 0) for prompt in prompts]
    before = [job.isolated_ns for job in jobs]
    assert before == [job.remaining_ns for job in jobs]
    while one.unfinished:
        one.step()
        after = [job.remaining_ns for job in jobs]
        assert all(0 <= new <= old for new, old in zip(after, before, strict=True))
        before = after


@every_policy
@settings(max_examples=15)
@given(arrivals_of, options_of)
def test_wrong_predictions_lose_no_prompt(name, prompts, options):
    check_parts(drive(name, prompts, COSTS, error=0.6, seed=1, **options), prompts)


@every_policy
@given(tokens=st.integers(1, 999))
@settings(max_examples=10)
def test_a_prompt_alone_takes_its_isolated_time(name, tokens):
    episode = drive(name, [Prompt(7, tokens)], COSTS)
    assert episode.end_ns[0] - 7 == episode.jobs[0].isolated_ns


@every_policy
def test_nothing_starts_without_memory_and_what_has_started_goes_on(name):
    one = driver(name, COSTS)
    first = one.arrive(Prompt(0, 250), 0)
    one.can_start = lambda job: False
    assert one.step() is None
    one.can_start = lambda job: job is first
    one.step()
    one.can_start = lambda job: False
    one.arrive(Prompt(one.now_ns, 10), one.now_ns)
    while first.remaining_tokens:
        plan = one.step()
        assert [chunk.job for chunk in plan.chunks] == [first]
    assert one.step() is None
    one.can_start = lambda job: True
    one.run([])
    assert one.episode.order == [0, 1]


@every_policy
@settings(max_examples=20)
@given(arrivals_of, options_of, st.integers(1, 10))
def test_a_prompt_that_was_sent_back_without_its_kv_is_computed_anew(name, prompts, options, after):
    one = driver(name, COSTS, **options)
    for prompt in prompts:
        one.arrive(replace(prompt, arrival_ns=0), 0)
    for _ in range(after):
        one.step()
    for old in [job for job in one.unfinished if job.started][:2]:
        one.policy.on_finish(old, one.now_ns)
        new = PrefillJob(old.request_id, old.arrival_ns, old.order, old.prompt_tokens, client=old.client)
        one.unfinished[one.unfinished.index(old)] = new
        one.policy.on_arrival(new, one.now_ns)
    one.run([])
    assert sorted(one.episode.end_ns) == list(range(len(prompts)))


@every_policy
@settings(max_examples=15)
@given(arrivals_of, options_of)
def test_a_prompt_of_which_more_is_cached_when_it_starts_runs_the_rest_only(name, prompts, options):
    one = driver(name, COSTS, **options)
    jobs = [one.arrive(replace(prompt, arrival_ns=0), 0) for prompt in prompts]
    warm = [job.prompt_tokens // 2 for job in jobs]
    for job, tokens in zip(jobs, warm, strict=True):
        job.computed = tokens
        one.policy.on_warm_change(job, 0)
    ran = dict.fromkeys(range(len(jobs)), 0)
    for step in one.run([]).steps:
        for part in step.parts:
            ran[part.prompt] += part.tokens * (part.group == part.groups - 1)
    assert ran == {job.request_id: job.prompt_tokens - tokens for job, tokens in zip(jobs, warm, strict=True)}
    assert all(job.remaining_ns == 0 for job in jobs)

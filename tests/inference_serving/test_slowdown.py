"""Slowdown by class, and Jain's index over it."""

from __future__ import annotations

import pytest
from clusters import instance, make_cluster, requests, simulate
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.output import collect
from inference_serving.slowdown import PrefillFacts, by_class, class_of, jain

positive = st.floats(0.01, 1e6)


@given(st.lists(positive, min_size=1, max_size=30))
def test_jains_index_lies_between_one_over_n_and_one(values):
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9


@given(st.lists(positive, min_size=1, max_size=30), st.floats(0.1, 10))
def test_jains_index_does_not_change_with_the_unit(values, factor):
    assert jain([factor * value for value in values]) == pytest.approx(jain(values))


def test_jains_index_of_some_who_have_all_is_their_share():
    assert jain([3, 3, 3, 0]) == pytest.approx(0.75)


def test_a_class_given_by_the_dataset_wins_over_the_length():
    assert class_of("long", 10, 100) == "long"
    assert (class_of(None, 99, 100), class_of(None, 100, 100)) == ("short", "long")


def test_groups_are_summarised_each_and_fairness_over_all():
    facts = [PrefillFacts("short", 10, 2.0), PrefillFacts("short", 10, 4.0), PrefillFacts("long", 100, 1.0)]
    classes, fairness = by_class(facts, [20, 40, 100])
    assert list(classes) == ["long", "short"]
    assert (classes["short"].requests, classes["short"].slowdown_mean, classes["short"].slowdown_max) == (
        2,
        3.0,
        4.0,
    )
    assert (classes["short"].ttft_p50_ns, classes["long"].ttft_p999_ns) == (30, 100)
    assert fairness.slowdown == pytest.approx(49 / (3 * 21))
    assert fairness.inverse == pytest.approx(1.75**2 / (3 * (0.25 + 0.0625 + 1)))
    assert fairness.class_means == pytest.approx(16 / (2 * 10))


@pytest.mark.parametrize("policy", ["fcfs", "srpt", "bounded-overtake"])
@pytest.mark.parametrize("npus", [1, 2])
def test_a_prompt_alone_has_a_slowdown_of_one_under_every_policy(tmp_path, policy, npus):
    cluster = make_cluster(tmp_path, [instance(tmp_path, npus, scheduling_policy=policy)])
    result = collect(cluster, simulate(cluster, requests((100, 3))))
    assert [one.slowdown for one in result.prefill] == [1.0]


def test_the_isolated_time_is_the_same_whatever_the_chunks(tmp_path):
    """A small token budget makes a prompt slower; that is slowdown, not a larger denominator."""
    isolated = set()
    for budget in (32, 512):
        cluster = make_cluster(tmp_path, [instance(tmp_path, max_num_batched_tokens=budget)])
        (facts,) = collect(cluster, simulate(cluster, requests((300, 1)))).prefill
        isolated.add(facts.isolated_ns)
        assert (facts.slowdown > 1.5) == (budget == 32)
    assert len(isolated) == 1

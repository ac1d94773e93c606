"""Bootstrap intervals: exact for constants, paired for equal arrivals, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.hol.bootstrap import Estimate, estimate, mean, percentile


def test_a_constant_has_an_interval_of_no_width():
    found = estimate([np.full(50, 3.0), np.full(20, 3.0)], mean)
    assert found.value == 3.0
    assert found.interval == (3.0, 3.0)


def test_the_value_is_that_of_all_runs_pooled():
    runs = [np.array([1.0, 2.0]), np.array([3.0, 4.0, 10.0])]
    assert estimate(runs, mean).value == 4.0
    assert estimate(runs, percentile(50)).value == 3.0


def test_seeds_that_differ_widen_the_interval_even_if_requests_do_not():
    low, high = estimate([np.full(100, 1.0), np.full(100, 2.0), np.full(100, 3.0)], mean).interval
    assert low < 1.5
    assert high > 2.5


def test_the_interval_of_independent_draws_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(0.0, 1.0, 10_000)
    low, high = estimate([values], mean).interval
    assert (high - low) / 2 == pytest.approx(1.96 / 100, rel=0.25)


def test_neighbours_that_wait_together_widen_the_interval():
    """40 queues of 100 requests each are worth 40 draws, not 4,000."""
    values = np.repeat(np.random.default_rng(1).normal(0.0, 1.0, 40), 100)
    low, high = estimate([values], mean).interval
    alone = 1.96 * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 > 4 * alone


def test_ratios_on_the_same_arrivals_are_paired():
    values = np.random.default_rng(2).lognormal(0.0, 2.0, 500)
    ratio = estimate([2 * values], mean).over(estimate([values], mean))
    assert ratio.value == pytest.approx(2.0)
    assert ratio.interval == pytest.approx((2.0, 2.0))


def test_equal_input_gives_equal_replicates():
    values = np.arange(30.0)
    first, second = (estimate([values], percentile(99), replicates=20) for _ in range(2))
    assert isinstance(first, Estimate)
    assert first.replicates.tolist() == second.replicates.tolist()

"""The workload of the recorded runs."""

from __future__ import annotations

import numpy as np

from integrations.bimodal import LONG_TOKENS, OUTPUT_TOKENS, SHORT_TOKENS, bimodal


def test_one_seed_fixes_the_whole_workload():
    assert bimodal(7, 50, 1.4, 0.11) == bimodal(7, 50, 1.4, 0.11)
    assert bimodal(7, 50, 1.4, 0.11) != bimodal(8, 50, 1.4, 0.11)


def test_lengths_are_within_their_ranges():
    for one in bimodal(1, 500, 1.4, 0.3):
        low, high = LONG_TOKENS if one.long else SHORT_TOKENS
        assert low <= one.prompt_tokens <= high
        assert OUTPUT_TOKENS[0] <= one.output_tokens <= OUTPUT_TOKENS[1]


def test_arrivals_are_a_poisson_process_of_the_rate():
    gaps = np.diff([0.0, *(one.at_s for one in bimodal(1, 4000, 2.0, 0.0))])
    assert abs(gaps.mean() - 0.5) < 0.02
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05


def test_the_share_of_long_prompts_is_as_asked():
    longs = sum(one.long for one in bimodal(1, 4000, 1.0, 0.11))
    assert 400 < longs < 480


def test_without_a_share_there_are_none():
    assert not any(one.long for one in bimodal(1, 200, 1.0, 0.0))

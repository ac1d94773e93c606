"""Pulses of requests that continue conversations: when they come, what their prompts share, and the committed file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from dataset.generate_pulses import Pulses, main, pulses
from inference_serving.dataset import read_dataset

COMMITTED = Path(__file__).resolve().parents[2] / "dataset" / "sharegpt_pulse_req50_n6_delay15_pc.jsonl"


def continued(requests, number):
    """The request that this one continues: all that was said in it is where this one's prompt begins; or None."""
    prompt = requests[number]["input_tok_ids"]
    said = [[*one["input_tok_ids"], *one["output_tok_ids"]] for one in requests[:number]]
    places = (place for place, ids in enumerate(said) if ids == prompt[: len(ids)])
    return next(places, None)


def test_the_committed_file_is_what_the_generator_makes(tmp_path):
    main([str(tmp_path / "made.jsonl")])
    assert (tmp_path / "made.jsonl").read_bytes() == COMMITTED.read_bytes()
    assert len(read_dataset(COMMITTED, 1000, keep_token_ids=True)) == 300


def test_pulses_are_a_pause_apart():
    """A pulse of 50 at 10 a second lasts 5 s on average."""
    arrivals = [one["arrival_time_ns"] / 1e9 for one in pulses(Pulses(pulses=40))]
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert [place % 50 for place, gap in enumerate(gaps) if gap >= 15] == [49] * 39
    assert arrivals[-1] == pytest.approx(39 * 15 + 40 * 5, rel=0.02)


def test_the_share_of_requests_that_continue_an_earlier_pulse_is_the_chance_to():
    requests = pulses(Pulses(pulses=12, continuing=0.3))
    pairs = [(number, continued(requests, number)) for number in range(len(requests))]
    found = [(number, before) for number, before in pairs if before is not None]
    assert all(before // 50 < number // 50 for number, before in found)
    assert len(found) / 550 == pytest.approx(0.3, abs=0.06)  # nobody continues in the first pulse


def test_without_continuing_nothing_is_shared():
    requests = pulses(Pulses(pulses=2, continuing=0.0))
    longer = [tuple(one["input_tok_ids"][:16]) for one in requests if one["input_toks"] >= 16]
    assert len(set(longer)) == len(longer)


def test_prompts_stay_below_the_longest_that_sharegpt_has():
    assert max(one["input_toks"] for one in pulses(Pulses(pulses=20, continuing=0.9))) <= 2000

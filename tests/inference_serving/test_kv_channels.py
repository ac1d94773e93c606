"""Which channels have whose KV."""

from __future__ import annotations

import numpy as np

from inference_serving.pim.kv_channels import KvChannels
from inference_serving.request import Batch, Request


def request(number: int, prompt: int = 10) -> Request:
    return Request(request_id=number, arrival_ns=0, prompt_tokens=prompt, output_tokens=5)


def groups(channels: KvChannels, running: list[Request]) -> list[int]:
    ones = np.ones(len(running), dtype=np.int64)
    placed = channels.place(Batch(ones, ones, len(running), 0, len(running)), running)
    assert placed.kv_groups is not None
    return placed.kv_groups.tolist()


def test_a_request_goes_where_the_fewest_tokens_are():
    """The long prompt has a group for itself until two short ones have as much."""
    running = [request(0, 30), request(1, 10), request(2, 15), request(3, 10)]
    assert groups(KvChannels(2), running) == [0, 1, 1, 1]


def test_kv_stays_where_it_was_written():
    channels = KvChannels(3)
    first, second, third = (request(number) for number in range(3))
    assert groups(channels, [first, second, third]) == [0, 1, 2]
    assert groups(channels, [third]) == [2]
    assert groups(channels, [third, request(3)]) == [2, 0]


def test_who_was_preempted_is_placed_anew():
    channels = KvChannels(2)
    first, second = request(0), request(1)
    assert groups(channels, [first, second]) == [0, 1]
    assert groups(channels, [first]) == [0]
    first.generated = 5
    assert groups(channels, [request(2), first, second]) == [1, 0, 1]

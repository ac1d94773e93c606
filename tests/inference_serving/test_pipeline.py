"""Pipeline parallelism: stages, what goes between them, and how many batches are on their way (closed forms)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from clusters import LinearLatency, requests, simulate
from pipeline_clusters import (
    BLOCKS,
    HOP_BYTES_PER_TOKEN,
    hop_ns,
    pp_cluster,
    pp_instance,
    stage_ns,
)

from inference_serving.request import Request
from inference_serving.settings import SchedulerSettings, SimulationConfig

SLOW_LINK = {"link_bw": 1, "link_latency": 5000}
WHOLE_PROMPTS = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=64))


def ttft_ns(simulation, request_id: int = 0) -> int:
    request = simulation.requests[request_id]
    return int(request.token_times_ns()[0]) - request.arrival_ns


@pytest.mark.parametrize("stages", [2, 3, 6])
def test_a_request_alone_takes_the_sum_of_its_stages_and_transfers(tmp_path, stages):
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, stages)], **SLOW_LINK)
    simulation = simulate(cluster, requests((100, 3)))
    prompt, decode = 500 + 100 * 100, 500 + 101
    blocks = BLOCKS // stages
    first = sum(
        stage_ns(100, prompt, blocks, first=stage == 0, last=stage == stages - 1) for stage in range(stages)
    )
    assert ttft_ns(simulation) == first + (stages - 1) * hop_ns(100, 1, 5000)
    second = sum(
        stage_ns(1, decode, blocks, first=stage == 0, last=stage == stages - 1) for stage in range(stages)
    )
    times = simulation.requests[0].token_times_ns().tolist()
    assert times[1] - times[0] == second + (stages - 1) * hop_ns(1, 1, 5000)
    tokens = 100 + 1 + 1
    assert simulation.counters.p2p_bytes == (stages - 1) * tokens * HOP_BYTES_PER_TOKEN


def saturated(folder: Path, partition: list[int], count: int, **top):
    """So many prompts of one iteration each, all at once; the time of the first stage's half of one, and the end."""
    cluster = pp_cluster(
        folder, [pp_instance(folder, len(partition), partition=partition)], WHOLE_PROMPTS, **top
    )
    return simulate(cluster, requests(*[(64, 1)] * count), WHOLE_PROMPTS)


def ends_ns(simulation) -> list[int]:
    return [request.end_ns for request in simulation.requests]


@pytest.mark.parametrize("partition", [[1, 5], [4, 2], [1, 4, 1], [2, 1, 1, 2]])
def test_the_slowest_stage_sets_the_pace(tmp_path, partition):
    simulation = saturated(tmp_path, partition, 40)
    attention, last = 500 + 64 * 64, len(partition) - 1
    slowest = max(
        stage_ns(64, attention, blocks, first=stage == 0, last=stage == last)
        for stage, blocks in enumerate(partition)
    )
    gaps = [after - before for before, after in pairwise(ends_ns(simulation))]
    # the batch queue is full again when the oldest batch returns: the slowest stage never waits
    assert set(gaps[len(partition) :]) == {slowest}


def test_no_more_batches_than_stages_are_on_their_way(tmp_path):
    """p batches in the time that one takes (Little's law), where links are slow, though not as slow as two stages."""
    simulation = saturated(tmp_path, [3, 3], 41, link_bw=1, link_latency=100_000)
    attention = 500 + 64 * 64
    hop = hop_ns(64, 1, 100_000)
    way = stage_ns(64, attention, 3, first=True) + hop + stage_ns(64, attention, 3, last=True)
    ends = ends_ns(simulation)
    assert ends[40] - ends[0] == 20 * way


def test_messages_between_two_stages_take_turns(tmp_path):
    simulation = saturated(tmp_path, [3, 3], 41, link_bw=1, link_latency=1_000_000)
    assert {after - before for before, after in pairwise(ends_ns(simulation))} == {hop_ns(64, 1, 1_000_000)}


@pytest.mark.parametrize(("stages", "batches"), [(2, 1), (2, 8), (3, 12), (6, 30)])
def test_the_bubble_is_that_of_gpipe(tmp_path, stages, batches):
    """m batches through p equal stages take m + p - 1 steps (Huang et al., GPipe, 2019)."""

    class Even(LinearLatency):
        """Blocks only: embedding, final norm and lm_head take the 1 ns that every node takes."""

        def layer_ns(self, layer, tokens):
            edge = layer in ("embedding", "final_layernorm", "lm_head")
            return tokens * 0 if edge else super().layer_ns(layer, tokens)

    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, stages)], WHOLE_PROMPTS, link_bw=100_000)
    simulation = simulate(cluster, requests(*[(64, 1)] * batches), WHOLE_PROMPTS, latency=Even())
    step = stage_ns(64, 500 + 64 * 64, BLOCKS // stages)
    makespan = max(ends_ns(simulation))
    assert makespan == pytest.approx((batches + stages - 1) * step, rel=1e-3)
    busy = simulation.instances[0].stage_busy_ns
    bubble = 1 - sum(busy) / (stages * makespan)
    assert bubble == pytest.approx((stages - 1) / (batches + stages - 1), abs=1e-3)


@pytest.mark.parametrize("latency_ns", [0, 5000, 300_000])
def test_chunks_of_one_prompt_follow_each_other_through_the_stages(tmp_path, latency_ns):
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 2)], WHOLE_PROMPTS, link_latency=latency_ns)
    simulation = simulate(cluster, requests((256, 1)), WHOLE_PROMPTS)
    free, landed, end = 0, 0, 0
    returned: list[int] = []
    for chunk in range(4):
        attention = 500 + 64 * (64 * chunk + 64)
        formed = returned[chunk - 2] if chunk >= 2 else 0
        free = max(free, formed) + stage_ns(64, attention, 3, first=True)
        landed = max(free, landed) + hop_ns(64, latency_ns=latency_ns)
        end = max(end, landed) + stage_ns(64, attention, 3, last=True)
        returned.append(end)
    assert ttft_ns(simulation) == end
    # the prediction for the prompt alone knows of the overlap
    assert simulation.instances[0].predict_ns(Request(1, 0, prompt_tokens=256, output_tokens=1)) == end


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_ranks_send_equal_shares_to_equal_ranks(tmp_path, tp_size):
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 3, tp_size)])
    simulation = simulate(cluster, requests((100, 2), (50, 5)))
    computed = 100 + 1 + 50 + 4
    assert simulation.counters.p2p_bytes == 2 * computed * HOP_BYTES_PER_TOKEN


def test_a_request_gets_no_token_while_one_is_on_its_way(tmp_path):
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 3)])
    simulation = simulate(cluster, requests((10, 20)))
    # one at a time through all stages, though three batches may be on their way
    decode = [
        sum(stage_ns(1, 500 + 11 + token, 2, first=stage == 0, last=stage == 2) for stage in range(3))
        + 2 * hop_ns(1)
        for token in range(19)
    ]
    times = simulation.requests[0].token_times_ns().tolist()
    assert [after - before for before, after in pairwise(times)] == decode


def test_two_stages_beat_one_batch_at_a_time(tmp_path):
    """Twice the sequences of one batch keep both stages busy, where one batch leaves half of them idle."""
    limit = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=16))
    work = requests(*[(16, 30)] * 16)
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 2)], limit)
    both = simulate(cluster, work, limit)
    one = pp_cluster(tmp_path, [pp_instance(tmp_path, 1)], limit)
    alone = simulate(one, work, limit)
    assert max(ends_ns(both)) < 0.75 * max(ends_ns(alone))

"""Batches formed one iteration ahead, and what that does to the times of requests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from clusters import LinearLatency, instance, make_cluster, requests, simulate
from scheduler_builders import AheadBench, Bench

from inference_serving.async_scheduler import AsyncScheduler
from inference_serving.kv_cache import KvCache
from inference_serving.request import Request, RequestState
from inference_serving.settings import SchedulerSettings, SimulationConfig

AHEAD = SimulationConfig(scheduler=SchedulerSettings(async_scheduling=True))


def token_times(tmp_path, workload, config, **latency):
    cluster = make_cluster(tmp_path, [instance(tmp_path)], config)
    simulation = simulate(cluster, workload, config, latency=LinearLatency(**latency))
    finished = sorted(simulation.finished, key=lambda request: request.request_id)
    return [request.token_times_ns().tolist() for request in finished]


def test_a_token_is_scheduled_before_the_one_it_follows_is_known():
    bench = AheadBench()
    request = bench.add("a", 6, 3)
    assert bench.run() == [[("a", 6, 0)], [("a", 1, 6)], [("a", 1, 7)]]
    assert request.token_times_ns().tolist() == [100, 200, 300]


def test_a_request_that_arrives_as_an_iteration_ends_waits_for_the_batch_that_is_formed_already():
    ahead, behind = AheadBench(), Bench()
    for bench in (ahead, behind):
        bench.add("a", 6, 5)
        bench.step()
        bench.add("b", 8, 2)
    assert ahead.steps(2) == [[("a", 1, 6)], [("a", 1, 7), ("b", 8, 0)]]
    assert behind.step() == [("a", 1, 6), ("b", 8, 0)]


def test_a_request_keeps_its_place_until_its_last_token_is_out():
    bench = AheadBench(max_num_seqs=2)
    bench.add("long", 4, 9)
    bench.add("short", 4, 2)
    bench.add("next", 4, 1)
    assert bench.steps(4) == [
        [("long", 4, 0), ("short", 4, 0)],
        [("long", 1, 4), ("short", 1, 4)],
        [("long", 1, 5)],  # formed while the last token of "short" was on its way
        [("long", 1, 6), ("next", 4, 0)],
    ]


def test_a_request_that_is_preempted_gets_the_token_that_was_on_its_way():
    bench = AheadBench(kv_blocks=4)
    bench.add("first", 8, 6)
    second = bench.add("second", 8, 4)
    bench.step()  # "second" gives its blocks up as its decode is formed; its first token comes all the same
    assert (bench.running(), bench.waiting()) == (["first"], ["second"])
    assert second.token_times_ns().tolist() == [100]
    assert bench.outcome.generated_tokens == 2
    bench.run()
    assert second.token_times_ns().size == 4
    assert bench.kv_cache.used_blocks == 0


def test_a_preempted_request_whose_last_token_was_on_its_way_is_finished_and_not_run_again():
    bench = AheadBench(kv_blocks=4)
    bench.add("first", 8, 6)
    second = bench.add("second", 8, 1)
    bench.step()
    assert bench.outcome.finished == [second]
    assert (second.state, second.end_ns, bench.waiting()) == (RequestState.FINISHED, 100, [])
    assert all(name == "first" for batch in bench.run() for name, _, _ in batch)


def test_evicting_all_loses_the_tokens_on_their_way():
    bench = AheadBench()
    request = bench.add("a", 6, 9)
    bench.steps(2)
    assert bench.ahead
    assert bench.scheduler.evict_all() == [request]
    assert request.generated == request.token_times_ns().size == 2


def test_a_prefill_instance_cannot_schedule_ahead():
    with pytest.raises(ValueError, match="prefill"):
        AsyncScheduler(SchedulerSettings(), KvCache(8, 4), hands_over=True)


def test_a_lone_request_takes_as_long_as_without(tmp_path):
    workload = requests((300, 20))
    assert token_times(tmp_path, workload, AHEAD) == token_times(tmp_path, workload, SimulationConfig())


def test_a_request_that_arrives_during_an_iteration_gets_its_first_token_one_iteration_later(tmp_path):
    workload = requests((500, 30), (40, 1), gap_ns=1000)
    without = token_times(tmp_path, workload, SimulationConfig())
    ahead = token_times(tmp_path, workload, AHEAD)
    decode_ns = ahead[0][1] - ahead[0][0]
    assert ahead[1][0] - without[1][0] == pytest.approx(decode_ns, abs=100)


def test_the_step_overhead_hides_behind_the_iteration_before(tmp_path):
    workload = requests((50, 4))
    plain = token_times(tmp_path, workload, AHEAD)[0]
    hidden = token_times(tmp_path, workload, AHEAD, step_overhead_ns=700)[0]
    assert [after - before for after, before in zip(hidden, plain, strict=True)] == [700] * 4


def test_a_step_overhead_longer_than_an_iteration_sets_the_pace(tmp_path):
    times = token_times(tmp_path, requests((50, 5)), AHEAD, step_overhead_ns=10**6)[0]
    assert [after - before for before, after in pairwise(times)] == pytest.approx([10**6] * 4, rel=0.1)


def test_prefills_that_go_on_are_told_as_of_the_end_of_the_running_iteration():
    """A router asks in between: 40 tokens run, 40 more are formed, and 20 are left after those."""
    scheduler = AsyncScheduler(SchedulerSettings(max_num_batched_tokens=40), KvCache(100, 16))
    scheduler.enqueue(Request(0, arrival_ns=0, prompt_tokens=100, output_tokens=3))
    running = scheduler.schedule(0)
    assert running is not None
    told = [list(scheduler.unfinished_prompts(running.grants))]
    scheduler.enqueue(Request(1, arrival_ns=1, prompt_tokens=5, output_tokens=2))
    formed = scheduler.schedule(0)
    assert formed is not None
    told.append(list(scheduler.unfinished_prompts(running.grants)))
    scheduler.complete(10)
    told.append(list(scheduler.unfinished_prompts(formed.grants)))
    last = scheduler.schedule(10)
    assert last is not None
    told.append(list(scheduler.unfinished_prompts(formed.grants)))
    scheduler.complete(20)
    told.append(list(scheduler.unfinished_prompts(last.grants)))
    waits, first = (5, 0, 0), [(100, 0, done) for done in (0, 40, 80)]
    assert told == [[first[0]], [waits, first[1]], [waits, first[1]], [first[2], waits], [first[2], waits]]


@pytest.mark.parametrize("router", ["LWL", "SITA", "MSC"])
def test_routers_that_ask_for_work_left_see_instances_that_schedule_ahead(tmp_path, router):
    config = SimulationConfig(AHEAD.scheduler, request_routing_policy=router)
    cluster = make_cluster(tmp_path, [instance(tmp_path)] * 2, config)
    simulation = simulate(cluster, requests(*[(90, 1), (10, 30), (200, 2)] * 4, gap_ns=20_000), config)
    assert len(simulation.finished) == 12

"""The way to the engine: one compilation for each structure, and nothing that grows with the iterations."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from clusters import LinearLatency, instance, make_cluster, requests, simulate

from astra_sim import Engine
from inference_serving.controller import EngineController
from inference_serving.request import Batch
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.trace import Trace
from inference_serving.trace_generator import TraceGenerator

MIXED = [(300, 5), (20, 1), (7, 40), (150, 12), (1, 3)]
CHUNKED = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=64))


@pytest.fixture
def compiled(monkeypatch) -> list[int]:
    """Number of graphs of every compilation."""
    sizes: list[int] = []
    compile_graphs = Engine.compile

    def counting(engine, graphs):
        sizes.append(len(graphs))
        return compile_graphs(engine, graphs)

    monkeypatch.setattr(Engine, "compile", counting)
    return sizes


def cluster_of(folder, *kinds):
    return make_cluster(folder, [instance(folder, *kind, kv_tokens=8192) for kind in kinds], CHUNKED)


def trace_of(spec, prompt: int) -> Trace:
    numbers = np.array([prompt], dtype=np.int64)
    batch = Batch(numbers, np.zeros_like(numbers), prompt, prompt, 1)
    return TraceGenerator(spec, LinearLatency()).synthesize_trace(batch, {}, {})


def one_npu_ns(prompt: int) -> int:
    """24 layers and the head cost 1000 ns and 10 ns a token (the head: one token); two attentions; ids in."""
    return 24 * (1000 + 10 * prompt) + 1010 + 2 * (500 + prompt * prompt) + 4 * prompt // 256


@pytest.mark.parametrize("npus", [1, 2, 4])
def test_an_instance_compiles_its_one_structure_once(tmp_path, compiled, npus):
    simulation = simulate(cluster_of(tmp_path, (npus, None)), requests(*MIXED), CHUNKED)
    assert simulation.instances[0].iterations > 20
    assert compiled == [npus]


def test_prefill_and_decode_compile_one_structure_for_each_set_of_targets(tmp_path, compiled):
    cluster = cluster_of(tmp_path, (1, "prefill"), (2, "decode"))
    simulate(cluster, requests((30, 1), (30, 2), (500, 9), gap_ns=10_000_000), CHUNKED)
    assert compiled == [1, 3, 2]  # prefill without targets, prefill with its target, decode


def test_compilations_do_not_grow_with_the_iterations(tmp_path, compiled):
    cluster = cluster_of(tmp_path, (1, "prefill"), (2, "prefill"), (1, "decode"))
    counts = []
    for repeats in (4, 40):
        before = len(compiled)
        simulate(cluster, requests(*MIXED * repeats, gap_ns=40_000), CHUNKED)
        counts.append(len(compiled) - before)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "kinds", [[(4, None)], [(1, None), (1, None)], [(2, "prefill"), (1, "decode"), (4, "decode")]]
)
def test_no_ticket_is_left_when_all_requests_have_finished(tmp_path, kinds):
    simulation = simulate(cluster_of(tmp_path, *kinds), requests(*MIXED * 3, gap_ns=9_000), CHUNKED)
    assert simulation.counters.tickets_active == 0
    assert simulation.controller.advance(None) == []


def test_each_instance_has_at_most_one_ticket_at_a_time(tmp_path, monkeypatch):
    active = []
    submit = EngineController.submit

    def counting(controller, trace, at_ns):
        ticket = submit(controller, trace, at_ns)
        active.append(controller.counters.tickets_active)
        return ticket

    monkeypatch.setattr(EngineController, "submit", counting)
    simulate(cluster_of(tmp_path, (1, None), (2, None)), requests(*MIXED * 10, gap_ns=9_000), CHUNKED)
    assert len(active) > 100
    assert max(active) == 2


def traces_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, Trace) for thing in gc.get_objects())


def test_no_trace_outlives_its_iteration(tmp_path):
    cluster = cluster_of(tmp_path, (1, "prefill"), (1, "decode"))
    before = traces_alive()
    simulation = simulate(cluster, requests(*MIXED), CHUNKED)
    assert len(simulation.finished) == len(MIXED)
    assert traces_alive() <= before


def test_an_iteration_starts_when_it_is_told_to(tmp_path):
    cluster = cluster_of(tmp_path, (1, None))
    controller = EngineController(cluster)
    ticket = controller.submit(trace_of(cluster.instances[0], 100), at_ns=5_000)
    assert controller.advance(None) == [(ticket, 0, 5_000 + one_npu_ns(100))]
    assert controller.now_ns == 5_000 + one_npu_ns(100)


def test_time_stands_where_it_was_to_stop_if_nothing_completes_before(tmp_path):
    cluster = cluster_of(tmp_path, (1, None))
    controller = EngineController(cluster)
    ticket = controller.submit(trace_of(cluster.instances[0], 100), at_ns=0)
    assert controller.advance(one_npu_ns(100) - 1) == []
    assert controller.now_ns == one_npu_ns(100) - 1
    assert controller.advance(None) == [(ticket, 0, one_npu_ns(100))]


def test_instances_share_one_clock_and_return_in_order_of_time(tmp_path):
    cluster = cluster_of(tmp_path, (1, None), (1, None))
    controller = EngineController(cluster)
    slow = controller.submit(trace_of(cluster.instances[0], 60), at_ns=0)
    fast = controller.submit(trace_of(cluster.instances[1], 50), at_ns=10)
    assert controller.advance(None) == [(fast, 0, 10 + one_npu_ns(50))]
    assert controller.advance(None) == [(slow, 0, one_npu_ns(60))]


def test_a_structure_takes_new_numbers_with_every_submission(tmp_path, compiled):
    cluster = cluster_of(tmp_path, (1, None))
    controller = EngineController(cluster)
    generator = TraceGenerator(cluster.instances[0], LinearLatency())
    now_ns, took = 0, []
    for prompt in (10, 200, 3):
        numbers = np.array([prompt], dtype=np.int64)
        batch = Batch(numbers, np.zeros_like(numbers), prompt, prompt, 1)
        controller.submit(generator.synthesize_trace(batch, {}, {}), now_ns)
        (done,) = controller.advance(None)
        took.append(done.finish_ns - now_ns)
        now_ns = done.finish_ns
    assert took == [one_npu_ns(10), one_npu_ns(200), one_npu_ns(3)]
    assert compiled == [1]

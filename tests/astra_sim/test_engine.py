"""The Python line: compile, submit, advance, tickets and parts."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import numpy as np
import pytest
from astra_sim_builders import all_reduce, collective, comp, drain, engine, numbers, recv, send

import astra_sim.engine
from astra_sim import Completion, Graph, Node, NodeKind
from astra_sim.stall_doctor import BlockedNode


def compiled(target, *nodes):
    return target.compile([Graph(nodes)])


def test_the_example_of_the_class_holds():
    assert doctest.testmod(astra_sim.engine).failed == 0


def test_the_example_of_the_guide_holds(capsys):
    guide = (Path(__file__).parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")
    example = guide.split("```python\n")[1].split("```")[0]
    exec(example, {})
    assert capsys.readouterr().out.strip() == example.rsplit("# ", 1)[1].strip()


def test_advance_stops_at_the_first_completion_and_moves_the_clock_there():
    target = engine(2)
    work = compiled(target, comp(0))
    target.submit(work, [0], numbers(100), numbers(), 0)
    target.submit(work, [1], numbers(250), numbers(), 0)
    assert target.advance(1000) == [Completion(0, 0, 100)]
    assert target.now_ns == 100
    assert target.advance(1000) == [Completion(1, 0, 250)]
    assert target.advance(1000) == []
    assert target.now_ns == 1000


def test_completions_of_one_tick_come_together():
    target = engine(2)
    work = compiled(target, comp(0))
    target.submit(work, [0], numbers(100), numbers(), 0)
    target.submit(work, [1], numbers(60), numbers(), 40)
    assert target.advance() == [Completion(0, 0, 100), Completion(1, 0, 100)]


def test_events_at_the_limit_still_run():
    target = engine(1)
    target.submit(compiled(target, comp(0)), [0], numbers(100), numbers(), 0)
    assert target.advance(99) == []
    assert target.advance(100) == [Completion(0, 0, 100)]


def test_a_submission_at_now_starts_in_this_tick():
    target = engine(1)
    work = compiled(target, comp(0))
    assert target.advance(500) == []
    target.submit(work, [0], numbers(10), numbers(), 500)
    assert target.advance() == [Completion(0, 0, 510)]


def test_parts_complete_one_by_one_and_the_ticket_is_recycled_after_the_last():
    target = engine(2)
    graphs = [Graph((comp(0, part=7), comp(1, 0, part=9))), Graph((comp(0, slot=1, part=7),))]
    ticket = target.submit(target.compile(graphs), [0, 1], numbers(100, 150), numbers(), 0)
    assert target.advance() == [Completion(ticket, 7, 150)]
    assert target.tickets_active == 1
    assert target.advance() == [Completion(ticket, 9, 200)]
    assert target.tickets_active == 0


def test_a_slot_may_be_shared_and_unused_slots_are_allowed():
    target = engine(1)
    target.submit(compiled(target, comp(0), comp(1, 0)), [0], numbers(5, 99), numbers(1), 0)
    assert target.advance() == [Completion(0, 0, 10)]


def test_a_template_runs_on_any_npus():
    target = engine(8, "Ring")
    work = target.compile([Graph((all_reduce(0, group=(0, 1)),))] * 2)
    target.submit(work, [6, 7], numbers(), numbers(1 << 20), 0)
    near = drain(target)[0].finish_ns
    target.submit(work, [0, 4], numbers(), numbers(1 << 20), near)
    assert drain(target)[0].finish_ns - near > near


def test_counters_and_statistics():
    target = engine(2)
    work = target.compile([Graph((comp(0), send(1, 1, 0))), Graph((recv(0, 0),))])
    target.submit(work, [0, 1], numbers(100), numbers(64), 0)
    end = drain(target)[-1].finish_ns
    assert target.counters._replace(events=0) == (0, 3, 64, 0, 0)
    stats = target.npu_stats(0)
    assert (stats.finish_ns, stats.compute_ns, stats.communication_ns) == (end, 100, end - 100)
    assert target.npu_stats(1).communication_ns == end


@pytest.mark.skipif("ENGINE_MODULE" in os.environ, reason="a sanitizer keeps freed memory for a while")
def test_memory_is_flat_over_ten_thousand_submissions():
    resource = pytest.importorskip("resource")
    target = engine(2)
    nodes = [all_reduce(0), comp(1, 0), send(2, 1, 1, tag=1)]
    work = target.compile([Graph(tuple(nodes)), Graph((all_reduce(0),))])  # nobody receives the send

    def submit(times: int) -> None:
        for _ in range(times):
            target.submit(work, [0, 1], numbers(10), numbers(4096), target.now_ns)
            assert len(drain(target)) == 1
            assert target.tickets_active == 0

    submit(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    submit(10_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048  # KiB


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([comp(3, 9)], r"NPU 0, node 3 \(comp3\): depends on node 9, which does not exist"),
        (
            [comp(0, 2), comp(1, 0), comp(2, 1)],
            r"NPU 0: dependency cycle: .*0 \(comp0\) -> 1 \(comp1\)",
        ),
        ([comp(1), comp(1)], r"node 1 \(comp1\): the id is used twice"),
        ([Node(0, NodeKind.COMP)], "NPU 0, node 0: duration_slot is missing"),
        ([Node(0, NodeKind.SEND, peer=1)], "size_slot is missing"),
        ([send(0, 5)], r"node 0 \(send0\): peer 5 is not one of the 2 NPUs of the template"),
        ([send(0, 0)], "sends to or receives from itself"),
        ([all_reduce(0, group=(0, 2))], "group member 2 is not one of the 2 NPUs"),
        ([all_reduce(0, group=(1,))], "the NPU is not a member of the collective's group"),
        ([all_reduce(0, group=(0, 0))], "group member 0 is listed twice"),
        ([all_reduce(0, group=(0,))], "a group of one NPU would never complete"),
        ([all_reduce(0)], r"needs 4 graphs, one per NPU; got 2"),
        ([all_reduce(0, involved_dims=(False,))], "involves no dimension with more than one NPU"),
        ([Node(0, NodeKind.COLL, size_slot=0)], "a collective node needs its collective"),
        ([comp(0, copy_engine=True)], "only a send, a load or a store can use the copy engine"),
        ([all_reduce(0, is_cpu_op=True)], "is_cpu_op is allowed on compute nodes only"),
        ([], "the graphs have no nodes"),
    ],
)
def test_compile_names_npu_node_and_cause(nodes, message):
    target = engine(4)
    with pytest.raises(ValueError, match=message):
        target.compile([Graph(tuple(nodes)), Graph(())])


def test_an_algorithm_that_cannot_run_on_so_many_npus_is_refused_when_used():
    target = engine(3, all_reduce=("halvingDoubling",))
    with pytest.raises(ValueError, match="halvingDoubling needs a power of two of NPUs, not 3"):
        target.compile([Graph((all_reduce(0),))] * 3)


def test_a_reduction_needs_the_local_memory_bandwidth():
    target = engine(2, local_mem_bw_gbps=None)
    with pytest.raises(ValueError, match="a reduction needs local-mem-bw"):
        target.compile([Graph((all_reduce(0),))] * 2)


@pytest.mark.parametrize(
    ("npus", "durations", "sizes", "at_ns", "message"),
    [
        ([0, 1], numbers(1), numbers(), 99, "at_ns 99 lies in the past: now is 100"),
        ([0], numbers(1), numbers(), 100, "the template has 2 graphs, but 1 NPUs are given"),
        ([0, 4], numbers(1), numbers(), 100, "NPU 4 does not exist: the network has 4"),
        ([2, 2], numbers(1), numbers(), 100, "NPU 2 is given twice"),
        ([0, 1], numbers(), numbers(), 100, "the template needs 1 durations_ns, got 0"),
        ([0, 1], numbers(-1), numbers(), 100, "durations_ns must not be negative"),
        ([0, 1], numbers(1), numbers(-1), 100, "sizes must not be negative"),
    ],
)
def test_submit_refuses_what_does_not_fit(npus, durations, sizes, at_ns, message):
    target = engine(4)
    work = target.compile([Graph((comp(0),)), Graph(())])
    target.advance(100)
    with pytest.raises(ValueError, match=message):
        target.submit(work, npus, durations, sizes, at_ns)


def test_submit_refuses_an_all_gather_smaller_than_the_splits():
    target = engine(2, preferred_dataset_splits=8)
    gather = Graph((collective(0, astra_sim.CollectiveKind.ALL_GATHER),))
    with pytest.raises(
        ValueError, match="an all-gather of 7 bytes cannot be cut into preferred-dataset-splits = 8"
    ):
        target.submit(target.compile([gather] * 2), [0, 1], numbers(), numbers(7), 0)


def test_advance_refuses_to_go_back():
    target = engine(1)
    target.advance(10)
    with pytest.raises(ValueError, match="until_ns lies in the past"):
        target.advance(9)


def test_submit_takes_integers_only():
    target = engine(1)
    with pytest.raises(TypeError):
        target.submit(compiled(target, comp(0)), [0], np.array([1.5]), numbers(), 0)


def test_a_stall_names_everyone_who_waits():
    target = engine(2)
    graphs = [Graph((all_reduce(0), comp(1, 0))), Graph((recv(5, 0, tag=3), comp(6, 5)))]
    with pytest.raises(ValueError, match="size_slot"):
        target.compile([Graph((Node(0, NodeKind.COLL, collective=astra_sim.CollectiveKind.ALL_REDUCE),))] * 2)
    target.submit(target.compile(graphs), [0, 1], numbers(1), numbers(1000), 0)
    assert target.advance() == []
    assert target.stall_report() == [
        BlockedNode(0, 0, "ALL_REDUCE", "waits for NPU 1, which has no collective left to join it", None),
        BlockedNode(0, 1, "comp1", "waits for node 0 (ALL_REDUCE)", 0),
        BlockedNode(
            1, 5, "recv5", "waits for 1000 bytes with tag 3 from NPU 0, which has no such send left", None
        ),
        BlockedNode(1, 6, "comp6", "waits for node 5 (recv5)", 2),
    ]

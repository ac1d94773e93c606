"""Timelines: valid Chrome trace events, no overlap on a thread, and the same sums as the statistics."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict

import pytest
from astra_sim_builders import (
    MIB,
    Dim,
    all_reduce,
    comp,
    load,
    mesh,
    message_ns,
    numbers,
    recv,
    run,
    send,
)

from astra_sim import Engine, Graph, MemoryConfig, NetworkConfig, Node, NodeKind, SystemConfig
from astra_sim.timeline import write_timeline

SIZE = 1_000_000
MEMORY = MemoryConfig(memory_type="PER_NPU_MEMORY_EXPANSION", latency_ns=1000, bandwidth_gbps=100)

MIXED = [
    [comp(0), comp(1, is_cpu_op=True), send(2, 1, 0, tag=1), load(3, 2), all_reduce(4, 3), recv(5, 1, tag=2)],
    [comp(0), recv(1, 0, tag=1), recv(2, 0, tag=3), send(3, 0, 0, tag=2), all_reduce(4, 3), comp(5, 4)],
]
MIXED[0].append(send(6, 1, 4, tag=3, copy_engine=True))


def timeline(path, target, graphs, durations=(), sizes=()):
    """Run graphs with recording and read back the timeline."""
    target.record()
    run(target, graphs, durations, sizes)
    write_timeline(path / "t.json", target, [Graph(tuple(nodes)) for nodes in graphs])
    return json.loads((path / "t.json").read_text())


def mixed(path):
    network = NetworkConfig.flat("Switch", 2, 50, 500)
    target = Engine(network, SystemConfig(local_mem_bw_gbps=1600, preferred_dataset_splits=2), [MEMORY])
    return target, timeline(path, target, MIXED, [700], [SIZE])


def spans(data):
    return [event for event in data["traceEvents"] if event["ph"] == "X"]


def ns(event, key: str) -> int:
    return round(event[key] * 1000)


def threads(data) -> dict[tuple[int, int], str]:
    return {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in data["traceEvents"]
        if event["ph"] == "M" and event["name"] == "thread_name"
    }


def processes(data) -> dict[int, str]:
    return {
        event["pid"]: event["args"]["name"]
        for event in data["traceEvents"]
        if event["ph"] == "M" and event["name"] == "process_name"
    }


def busy_ns(data, process: int, thread: str) -> int:
    """Time of all spans on the threads of a name."""
    names = threads(data)
    return sum(
        ns(event, "dur")
        for event in spans(data)
        if event["pid"] == process and names[process, event["tid"]].startswith(thread)
    )


def test_events_have_the_fields_of_the_trace_event_format(tmp_path):
    _, data = mixed(tmp_path)
    assert data["displayTimeUnit"] == "ns"
    for event in data["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        if event["ph"] == "X":
            assert isinstance(event["tid"], int)
            assert event["ts"] >= 0
            assert event["dur"] >= 0


def test_every_thread_and_process_has_one_name_before_its_first_span(tmp_path):
    _, data = mixed(tmp_path)
    named: set[object] = set()
    for event in data["traceEvents"]:
        if event["ph"] == "X":
            assert {event["pid"], (event["pid"], event["tid"])} <= named
            continue
        key = event["pid"] if event["name"] == "process_name" else (event["pid"], event["tid"])
        assert key not in named
        named.add(key)


def test_there_is_a_process_per_npu_and_one_of_links(tmp_path):
    _, data = mixed(tmp_path)
    assert processes(data) == {0: "NPU 0", 1: "NPU 1", 2: "links"}


def test_there_is_a_thread_per_unit_and_one_per_receive_at_a_time(tmp_path):
    _, data = mixed(tmp_path)
    names = [name for (process, _), name in threads(data).items() if process == 0]
    assert sorted(names) == ["CPU", "communication", "compute", "copy engine", "memory", "receive"]
    names = [name for (process, _), name in threads(data).items() if process == 1]
    assert sorted(names) == ["communication", "compute", "receive", "receive 2"]


def test_every_node_is_one_span_with_its_name_and_id(tmp_path):
    _, data = mixed(tmp_path)
    shown = sorted(
        (event["pid"], event["args"]["node"], event["name"]) for event in spans(data) if event["pid"] < 2
    )
    assert shown == sorted((npu, node.node_id, node.name) for npu in range(2) for node in MIXED[npu])


def test_a_node_without_a_name_is_called_by_its_kind(tmp_path):
    nodes = [Node(0, NodeKind.COMP, duration_slot=0)]
    data = timeline(tmp_path, mesh(Dim("Switch", 1)), [nodes], [5])
    assert [event["name"] for event in spans(data)] == ["COMP"]


def test_spans_of_one_thread_do_not_overlap(tmp_path):
    _, data = mixed(tmp_path)
    rows = defaultdict(list)
    for event in spans(data):
        rows[event["pid"], event["tid"]].append((ns(event, "ts"), ns(event, "ts") + ns(event, "dur")))
    for row in rows.values():
        for (_, end), (begin, _) in itertools.pairwise(sorted(row)):
            assert end <= begin


def test_times_are_in_us_of_the_nodes_beginning_and_duration(tmp_path):
    """comp0: 0 to 700 ns; send2 follows it, over a switch."""
    _, data = mixed(tmp_path)
    found = {event["name"]: event for event in spans(data) if event["pid"] == 0}
    assert (found["comp0"]["ts"], found["comp0"]["dur"]) == (0, 0.7)
    assert (found["send2"]["ts"], found["send2"]["dur"]) == (0.7, message_ns(SIZE, 2) / 1000)


def test_sums_of_the_threads_are_the_statistics(tmp_path):
    target, data = mixed(tmp_path)
    stats = target.npu_stats(0)
    assert busy_ns(data, 0, "compute") == stats.compute_ns == 700
    assert busy_ns(data, 0, "CPU") == stats.cpu_ns == 700
    assert busy_ns(data, 0, "memory") == stats.memory_ns == 1000 + SIZE // 100


def test_the_union_of_communication_and_receives_is_the_communication_time(tmp_path):
    target, data = mixed(tmp_path)
    names = threads(data)
    covered = set()
    for event in spans(data):
        if event["pid"] == 1 and names[1, event["tid"]].split()[0] in ("communication", "receive"):
            begin = ns(event, "ts")
            covered.update(range(begin, begin + ns(event, "dur")))
    assert len(covered) == target.npu_stats(1).communication_ns


def test_the_last_span_of_an_npu_ends_when_it_finishes(tmp_path):
    target, data = mixed(tmp_path)
    for npu in range(2):
        ends = [ns(event, "ts") + ns(event, "dur") for event in spans(data) if event["pid"] == npu]
        assert max(ends) == target.npu_stats(npu).finish_ns


# Links


def test_links_of_the_unaware_network_are_pairs_and_carry_the_whole_delay(tmp_path):
    data = timeline(tmp_path, mesh(Dim("Switch", 2)), [[send(0, 1)], [recv(0, 0)]], [], [SIZE])
    (link,) = (event for event in spans(data) if event["pid"] == 2)
    assert threads(data)[2, link["tid"]] == "NPU 0 -> NPU 1"
    assert (link["name"], link["args"]) == ("0 -> 1", {"bytes": SIZE})
    assert (ns(link, "ts"), ns(link, "dur")) == (0, message_ns(SIZE, 2))


def test_messages_of_a_pair_that_overlap_are_beside_each_other(tmp_path):
    """Two chunks at once from NPU 0 to 1 on the unaware network."""
    chunks = {"preferred_dataset_splits": 2, "active_chunks_per_dimension": 2}
    data = timeline(tmp_path, mesh(Dim("Switch", 2), **chunks), [[all_reduce(0)]] * 2, [], [MIB])
    names = sorted(name for (process, _), name in threads(data).items() if process == 2)
    assert names == ["NPU 0 -> NPU 1", "NPU 0 -> NPU 1 2", "NPU 1 -> NPU 0", "NPU 1 -> NPU 0 2"]


def test_spans_of_an_aware_link_add_up_to_bytes_over_bandwidth(tmp_path):
    """Seven NPUs send to NPU 0: each up link is busy for one message, the down link for seven."""
    dim = Dim("Switch", 8)
    graphs = [[recv(npu, npu) for npu in range(1, 8)]] + [[send(0, 0)] for _ in range(7)]
    data = timeline(tmp_path, mesh(dim, backend="aware"), graphs, [], [SIZE])
    busy = {name: busy_ns(data, 8, name) for (process, _), name in threads(data).items() if process == 8}
    up = {f"dim 0: NPU {npu} -> switch": dim.transfer_ns(SIZE) for npu in range(1, 8)}
    assert busy == up | {"dim 0: switch -> NPU 0": 7 * dim.transfer_ns(SIZE)}


def test_an_aware_link_is_one_thread_however_many_messages_wait(tmp_path):
    chunks = {"preferred_dataset_splits": 4, "active_chunks_per_dimension": 4}
    target = mesh(Dim("Ring", 4), backend="aware", **chunks)
    data = timeline(tmp_path, target, [[all_reduce(0)]] * 4, [], [MIB])
    names = sorted(name for (process, _), name in threads(data).items() if process == 4)
    assert names == [f"dim 0: NPU {npu} -> NPU {(npu + 1) % 4}" for npu in range(4)]


def test_all_bytes_of_a_collective_are_on_the_links(tmp_path):
    """Ring all-reduce of 4: each NPU sends 6 messages of D/4."""
    data = timeline(tmp_path, mesh(Dim("Ring", 4), backend="aware"), [[all_reduce(0)]] * 4, [], [MIB])
    links = [event["args"]["bytes"] for event in spans(data) if event["pid"] == 4]
    assert links == [MIB // 4] * 24


# What does not end


def test_a_node_that_never_ends_has_no_duration(tmp_path):
    target = mesh(Dim("Switch", 2))
    graphs = [Graph((comp(0), recv(1, 1, 0))), Graph(())]
    target.record()
    target.submit(target.compile(graphs), [0, 1], numbers(700), numbers(SIZE), 0)
    while target.advance():
        pass
    write_timeline(tmp_path / "t.json", target, graphs)
    data = json.loads((tmp_path / "t.json").read_text())
    assert [(event["name"], ns(event, "ts"), ns(event, "dur")) for event in spans(data)] == [
        ("comp0", 0, 700),
        ("recv1", 700, 0),
    ]


def test_nothing_is_recorded_unless_asked_for():
    target = mesh(Dim("Switch", 2))
    run(target, [[comp(0), send(1, 1)], [recv(0, 0)]], [5], [SIZE])
    assert target.node_spans() == target.link_spans() == []


def test_recording_changes_no_time():
    ends = []
    for recording in (False, True):
        target = mesh(Dim("Ring", 4), backend="aware", preferred_dataset_splits=3)
        if recording:
            target.record()
        ends.append(run(target, [[all_reduce(0), comp(1)]] * 4, [5000], [MIB]))
    assert ends[0] == ends[1]


def test_a_timeline_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "t.json").write_text("old")
    mixed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("name", ['with "quotes"', "ünïcode", "a\nb"])
def test_names_are_escaped(tmp_path, name):
    nodes = [Node(0, NodeKind.COMP, name, duration_slot=0)]
    data = timeline(tmp_path, mesh(Dim("Switch", 1)), [nodes], [5])
    assert [event["name"] for event in spans(data)] == [name]

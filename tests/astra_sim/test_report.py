"""The report: finish lines, statistics, utilisation under the roofline, and the same as JSON."""

from __future__ import annotations

import json
import re

import pytest
from astra_sim_builders import (
    MIB,
    all_reduce,
    collective,
    comp,
    load,
    message_ns,
    numbers,
    recv,
    reduction_ns,
    send,
)

from astra_sim import (
    CollectiveKind,
    Graph,
    MemoryConfig,
    NetworkConfig,
    Node,
    NodeKind,
    SystemConfig,
    write_graphs,
    write_memories,
    write_network,
    write_system,
)
from astra_sim.cli import main

FINISH = re.compile(
    r"\[workload\] \[info\] sys\[(\d+)\] finished, (\d+) cycles, exposed communication (-?\d+)"
)
STATISTIC = re.compile(r"\[statistics\] \[info\] sys\[(\d+)\], (.*): ([\d.e+]+)$", re.MULTILINE)
HOP = message_ns(MIB)


@pytest.fixture
def report(tmp_path, capsys):
    """Run graphs on a full mesh by the command; returns what it prints."""

    def run(graphs, *flags: str, durations=(3000,), sizes=(MIB,), code: int = 0, **system) -> str:
        write_network(tmp_path / "network.yml", NetworkConfig.flat("FullyConnected", len(graphs), 50, 500))
        write_system(tmp_path / "system.json", SystemConfig(**{"local_mem_bw_gbps": 1600} | system))
        memory = MemoryConfig(memory_type="PER_NPU_MEMORY_EXPANSION", latency_ns=1000, bandwidth_gbps=100)
        write_memories(tmp_path / "memory.json", [memory])
        write_graphs(tmp_path / "t", [Graph(tuple(g)) for g in graphs], numbers(*durations), numbers(*sizes))
        arguments = [
            f"--workload-configuration={tmp_path}/t",
            f"--system-configuration={tmp_path}/system.json",
            f"--network-configuration={tmp_path}/network.yml",
            f"--remote-memory-configuration={tmp_path}/memory.json",
        ]
        assert main([*arguments, *flags]) == code
        return capsys.readouterr().out

    run.folder = tmp_path
    return run


def finish_lines(text: str) -> list[tuple[int, ...]]:
    """(NPU, cycles, exposed cycles) in order of the lines."""
    return [tuple(map(int, found)) for found in FINISH.findall(text)]


def statistics(text: str, npu: int = 0) -> dict[str, float]:
    return {name: float(value) for who, name, value in STATISTIC.findall(text) if int(who) == npu}


# Lines


def test_exposed_communication_is_the_time_without_compute(report):
    """3000 ns of compute, then a message."""
    text = report([[comp(0), send(1, 1, 0)], [recv(0, 0)]])
    assert finish_lines(text) == [(0, 3000 + HOP, HOP), (1, 3000 + HOP, 3000 + HOP)]


def test_cpu_operations_are_no_compute(report):
    text = report([[comp(0, is_cpu_op=True)]])
    assert finish_lines(text) == [(0, 3000, 3000)]


def test_npus_are_listed_in_order_of_their_end(report):
    text = report([[comp(0), comp(1)], [comp(0)], []])
    assert [line[:2] for line in finish_lines(text)] == [(2, 0), (1, 3000), (0, 6000)]


def test_npus_that_never_finish_have_no_line(report):
    text = report([[comp(0)], [recv(0, 0)]], code=2)
    assert finish_lines(text) == [(0, 3000, 0)]


def test_the_statistics_of_an_npu_are_framed(report):
    lines = [line.split("] ", 1)[1] for line in report([[comp(0)]]).splitlines()]
    assert lines == [
        "[workload] [info] sys[0] finished, 3000 cycles, exposed communication 0 cycles.",
        "[statistics] [info] sys[0]. Post statistics processing start.",
        "[statistics] [info] sys[0], Wall time: 3000",
        "[statistics] [info] sys[0], GPU time: 3000",
        "[statistics] [info] sys[0]. Post statistics processing end.",
    ]


def test_every_line_begins_with_the_date(report):
    for line in report([[comp(0)]]).splitlines():
        assert re.match(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] ", line)


def test_times_are_given_for_the_types_that_ran(report):
    text = report([[comp(0), comp(1, is_cpu_op=True), load(2, 0, slot=1)], [comp(0)]], sizes=(MIB, 5000))
    assert statistics(text) == {
        "Wall time": 3000 + 1000 + 50,
        "CPU time": 3000,
        "GPU time": 3000,
        "Remote mem time": 1050,
    }


def test_communication_time_is_a_union_and_receives_count_from_their_posting(report):
    """NPU 1 posts both receives at 0; they end at one and two messages' time."""
    text = report([[send(0, 1), send(1, 1)], [recv(0, 0), recv(1, 0)]])
    assert statistics(text, 1) == {"Wall time": 2 * HOP, "Comm time": 2 * HOP}


def test_overlap_is_compute_and_communication_beyond_the_wall_time(report):
    text = report([[comp(0), send(1, 1)], [recv(0, 0)]])
    assert statistics(text) == {
        "Wall time": HOP,
        "GPU time": 3000,
        "Comm time": HOP,
        "Total compute-communication overlap": 3000,
    }


def test_no_overlap_no_line(report):
    text = report([[comp(0), send(1, 1, 0)], [recv(0, 0)]])
    assert "overlap" not in text


def test_a_collective_is_communication(report):
    """10 + 2 (msg(D/2) + 10) + red(D/2)"""
    half = MIB // 2
    text = report([[all_reduce(0)]] * 2)
    assert statistics(text)["Comm time"] == 10 + 2 * (message_ns(half) + 10) + reduction_ns(half)


def test_replay_only_counts_every_node_as_compute(report):
    """Two nodes of 3000 ns, one of them a broadcast's replay."""
    broadcast = collective(1, CollectiveKind.BROADCAST, 0, duration_slot=0)
    text = report([[comp(0), broadcast]], replay_only=True)
    assert finish_lines(text) == [(0, 6000, 0)]


# Roofline

ROOFLINE = {"roofline_enabled": True, "local_mem_bw_gbps": 1000, "peak_perf_tflops": 100}


def operation(node_id: int, *parents: int, ops: int, size: int) -> Node:
    return Node(node_id, NodeKind.COMP, data_deps=parents, ops_slot=ops, size_slot=size)


def test_utilisation_of_a_compute_bound_node(report):
    """10^9 operations on 10^6 bytes: 10 us at the peak of 10^14/s; 10^8 of 10^12 bytes/s are 10 %."""
    text = report([[operation(0, ops=0, size=1)]], sizes=(10**9, 10**6), **ROOFLINE)
    assert statistics(text) == {
        "Wall time": 10_000,
        "GPU time": 10_000,
        "Compute bound percentage": 100,
        "Average compute utilization": 100,
        "Average memory utilization": 10,
        "Average operation intensity": 1000,
    }


def test_utilisation_of_a_memory_bound_node(report):
    """10^7 operations on 10^6 bytes: 1 us at 10^12 bytes/s; 10^13 of 10^14 operations/s are 10 %."""
    text = report([[operation(0, ops=0, size=1)]], sizes=(10**7, 10**6), **ROOFLINE)
    assert statistics(text) == {
        "Wall time": 1000,
        "GPU time": 1000,
        "Compute bound percentage": 0,
        "Average compute utilization": 10,
        "Average memory utilization": 100,
        "Average operation intensity": 10,
    }


def test_a_node_just_beyond_the_ridge_is_compute_bound(report):
    """The ridge is at 100 operations per byte; 150 take 1.5 us at the peak, in which 1.5e6 bytes could move."""
    got = statistics(report([[operation(0, ops=0, size=1)]], sizes=(15 * 10**7, 10**6), **ROOFLINE))
    assert (got["Compute bound percentage"], got["Average memory utilization"]) == (100, round(200 / 3, 3))


def test_utilisation_is_over_the_time_of_the_roofline_nodes(report):
    """10 us compute bound and 1 us memory bound, then a CPU operation of 3 us that does not count.

    11 us: 1.01e9 of 1.1e9 operations, 2e6 of 11e6 bytes, 505 operations per byte.
    """
    nodes = [operation(0, ops=0, size=1), operation(1, 0, ops=2, size=1), comp(2, 1, is_cpu_op=True)]
    got = statistics(report([nodes], sizes=(10**9, 10**6, 10**7), **ROOFLINE))
    assert got["Compute bound percentage"] == round(100 * 10 / 11, 3)
    assert got["Average compute utilization"] == round(100 * 1.01e9 / 1.1e9, 3)
    assert got["Average memory utilization"] == round(100 * 2 / 11, 3)
    assert got["Average operation intensity"] == 505


def test_without_roofline_there_is_no_utilisation(report):
    assert "utilization" not in report([[comp(0)]])


# JSON


def test_json_says_what_the_lines_say(report):
    graphs = [[comp(0), load(1, 0), all_reduce(2, 1)], [comp(0), comp(1, is_cpu_op=True), all_reduce(2, 0)]]
    text, data = report(graphs), json.loads(report(graphs, "--json"))
    said = [(npu["npu"], npu["finish_cycles"], npu["exposed_communication_cycles"]) for npu in data["npus"]]
    assert said == sorted(finish_lines(text))
    for npu in data["npus"]:
        assert npu["statistics"] == statistics(text, npu["npu"])
    assert data["unfinished_npus"] == []


def test_json_counts_nodes_and_bytes(report):
    """A send of D, and a ring all-reduce of 2: each NPU sends twice D/2."""
    graphs = [[send(0, 1), all_reduce(1, 0)], [recv(0, 0), all_reduce(1, 0)]]
    data = json.loads(report(graphs, "--json"))
    assert (data["nodes_finished"], data["p2p_bytes"], data["collective_bytes"]) == (4, MIB, 2 * MIB)
    assert data["events"] > 4


def test_json_names_npus_that_never_finish(report):
    data = json.loads(report([[comp(0)], [recv(0, 0)], [recv(0, 0)]], "--json", code=2))
    assert data["unfinished_npus"] == [1, 2]
    assert [npu["npu"] for npu in data["npus"]] == [0]


def test_json_has_the_utilisation(report):
    data = json.loads(report([[operation(0, ops=0, size=1)]], "--json", sizes=(10**9, 10**6), **ROOFLINE))
    assert data["npus"][0]["statistics"]["Average memory utilization"] == 10


# Files


def test_the_log_has_the_lines_even_if_json_is_printed(report):
    report([[comp(0)]], "--json", f"--logging-folder={report.folder}/log")
    log = (report.folder / "log" / "log.log").read_text()
    assert finish_lines(log) == [(0, 3000, 0)]


def test_the_timeline_is_written_beside_the_report(report):
    report([[comp(0)]], f"--timeline={report.folder}/run.json")
    data = json.loads((report.folder / "run.json").read_text())
    assert [event["dur"] for event in data["traceEvents"] if event["ph"] == "X"] == [3]


@pytest.mark.parametrize("flag", ["--timeline={}/none/run.json", "--logging-folder={}/t.0.et"])
def test_output_that_cannot_be_written_is_an_error(report, flag, capsys):
    report([[comp(0)]])
    arguments = [
        f"--workload-configuration={report.folder}/t",
        f"--system-configuration={report.folder}/system.json",
        f"--network-configuration={report.folder}/network.yml",
        flag.format(report.folder),
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")

"""Fuzz tests of the trace reader and the graph executor: a result or a clear error, never anything else.

Whatever the input, the command ends with code 0 and every NPU finished, or with code 2 and ``error: ...``; it
does not crash, hang or print a traceback, and in its timeline the clock never runs backwards. FUZZ_CASES sets
the number of cases of the whole file (default 700): ``FUZZ_CASES=10000 pytest tests/astra_sim/test_fuzz.py``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fuzz_cases import careless, damaged, damages, finishing, records, systems, write_records
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim import InputError, NetworkConfig, Node, SystemConfig, read_et, write_network, write_system
from astra_sim.cli import main
from astra_sim.graph import NodeKind

CASES = int(os.environ.get("FUZZ_CASES", "700"))
PATIENCE_S = 60
"""After so long a case counts as hanging: the process ends with a traceback."""


class Outcome(NamedTuple):
    """What a run of the command left behind."""

    code: int
    report: dict[str, Any]
    """The JSON that it printed; empty if it printed none."""
    error: str
    spans: list[dict[str, Any]]
    """The spans of its timeline, in order."""


def run(arguments: list[str], folder: Path) -> Outcome:
    """Run the command and check what must hold for every input."""
    out, err = io.StringIO(), io.StringIO()
    timeline = folder / "timeline.json"
    timeline.unlink(missing_ok=True)
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments, "--json", f"--timeline={timeline}"])
    finally:
        faulthandler.cancel_dump_traceback_later()
    report = json.loads(out.getvalue()) if out.getvalue() else {}
    spans: list[dict[str, Any]] = []
    if timeline.exists():
        spans = [event for event in json.loads(timeline.read_text())["traceEvents"] if event["ph"] == "X"]
    outcome = Outcome(code, report, err.getvalue(), spans)
    check(outcome)
    return outcome


def check(outcome: Outcome) -> None:
    if outcome.code == 0:
        assert outcome.error == ""
        assert outcome.report["unfinished_npus"] == []
    else:
        assert outcome.code == 2
        assert outcome.error.startswith("error: ")
        assert len(outcome.error.removeprefix("error: ").strip()) > 10
    links = max((span["pid"] for span in outcome.spans), default=0)
    for of_links in (False, True):
        begins = [span["ts"] for span in outcome.spans if (span["pid"] == links) == of_links]
        assert begins == sorted(begins)
    assert all(span["ts"] >= 0 and span["dur"] >= 0 for span in outcome.spans)


@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def pair(folder: Path) -> list[str]:
    """The command line of a plain system of two NPUs."""
    write_network(folder / "network.yml", NetworkConfig.flat("Ring", 2, 50, 500))
    write_system(folder / "system.json", SystemConfig(local_mem_bw_gbps=1600))
    return [
        f"--workload-configuration={folder}/trace",
        f"--system-configuration={folder}/system.json",
        f"--network-configuration={folder}/network.yml",
    ]


# What must finish


@given(finishing())
@settings(max_examples=CASES // 4)
def test_a_sound_workload_finishes_and_twice_in_the_same_way(case):
    system, workload = case
    with scratch() as folder:
        arguments = [*system.write(folder), *workload.write(folder)]
        first = run(arguments, folder)
        assert (first.code, first.error) == (0, "")
        assert run(arguments, folder) == first
    finished = first.report["nodes_finished"]
    assert finished == sum(len(graph.nodes) for graph in workload.graphs)
    check_causes(first, [graph.nodes for graph in workload.graphs], system.system.replay_only)


def check_causes(outcome: Outcome, graphs: list[tuple[Node, ...]], replayed: bool) -> None:
    """No node begins before its parents have ended, and no receive ends before its send has begun."""
    begin, end = {}, {}
    for span in outcome.spans:
        if span["pid"] < len(graphs):
            key = span["pid"], span["args"]["node"]
            begin[key], end[key] = round(span["ts"] * 1000), round((span["ts"] + span["dur"]) * 1000)
    for npu, nodes in enumerate(graphs):
        ends = [end[npu, node.node_id] for node in nodes]
        assert outcome.report["npus"][npu]["finish_cycles"] == max(ends, default=0)
        for node in nodes:
            for parent in node.data_deps:
                assert begin[npu, node.node_id] >= end[npu, parent]
            if node.kind == NodeKind.RECV and not replayed:
                assert end[npu, node.node_id] >= begin[node.peer, node.node_id]


@given(finishing())
@settings(max_examples=CASES // 10)
def test_on_the_aware_network_no_two_messages_are_on_one_link(case):
    system, workload = case
    with scratch() as folder:
        arguments = [*system.write(folder), *workload.write(folder), "--network-backend=aware"]
        outcome = run(arguments, folder)
    rows = sorted(
        (span["tid"], round(span["ts"] * 1000), round((span["ts"] + span["dur"]) * 1000))
        for span in outcome.spans
        if span["pid"] == system.npus
    )
    for (row, _, end), (next_row, begin, _) in itertools.pairwise(rows):
        assert row != next_row or end <= begin


# What may be anything


@given(careless())
@settings(max_examples=CASES * 3 // 10)
def test_careless_graphs_end_with_a_result_or_an_error(case):
    system, workload = case
    with scratch() as folder:
        arguments = [*system.write(folder), *workload.write(folder)]
        assert run(arguments, folder) == run(arguments, folder)


@given(records(), st.booleans())
@settings(max_examples=CASES // 10)
def test_any_attributes_end_with_a_result_or_an_error(traces, kaist):
    with scratch() as folder:
        arguments = [*pair(folder), *write_records(folder, traces)]
        run([*arguments, "--et-dialect=kaist"] if kaist else arguments, folder)


@given(finishing(), st.integers(0, 1), damages())
@settings(max_examples=CASES * 3 // 20)
def test_damaged_traces_end_with_a_result_or_an_error(case, npu, what):
    system, workload = case
    with scratch() as folder:
        arguments = [*system.write(folder), *workload.write(folder)]
        path = folder / f"trace.{npu}.et"
        path.write_bytes(damaged(path.read_bytes(), what))
        run(arguments, folder)


@given(finishing(), damages(), st.sampled_from(["system.json", "network.yml", "memory.json", "groups.json"]))
@settings(max_examples=CASES // 20)
def test_damaged_configurations_end_with_a_result_or_an_error(case, what, name):
    system, workload = case
    with scratch() as folder:
        arguments = [*system.write(folder), *workload.write(folder)]
        path = folder / name
        path.write_bytes(damaged(path.read_bytes(), what))
        run(arguments, folder)


@given(st.binary(max_size=200), st.binary(max_size=40))
@settings(max_examples=CASES // 20)
def test_random_bytes_end_with_a_result_or_an_error(first, second):
    with scratch() as folder:
        (folder / "trace.0.et").write_bytes(first)
        (folder / "trace.1.et").write_bytes(second)
        run(pair(folder), folder)


@given(st.binary(max_size=200))
@settings(max_examples=CASES // 20)
def test_the_reader_gives_records_or_names_the_file(data):
    with scratch() as folder:
        (folder / "t.et").write_bytes(data)
        try:
            read_et(folder / "t.et")
        except InputError as error:
            assert error.file == str(folder / "t.et")


@pytest.mark.skipif(CASES < 1000, reason="only in a long run")
@given(systems())
@settings(max_examples=100)
def test_an_empty_workload_finishes_at_once(system):
    with scratch() as folder:
        arguments = system.write(folder)
        for npu in range(system.npus):
            (folder / f"trace.{npu}.et").write_bytes(b"")
        outcome = run(arguments, folder)
    assert [npu["finish_cycles"] for npu in outcome.report["npus"]] == [0] * system.npus

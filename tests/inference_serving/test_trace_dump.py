"""Dumped iterations: files that ``python -m astra_sim`` plays in the time they took (INV-12), and text traces."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from clusters import LinearLatency, cluster_file, instance, make_cluster, requests, simulate
from pim_clusters import pim_cluster

from astra_sim import read_et
from astra_sim.cli import main as astra_sim
from inference_serving.config_builder import load_cluster
from inference_serving.controller import EngineController
from inference_serving.settings import DumpSettings, SchedulerSettings, SimulationConfig
from inference_serving.trace import TraceRow
from inference_serving.trace_dump import TraceDump, trace_text

FINISH = re.compile(r"sys\[(\d+)\] finished, (\d+) cycles")
CHUNKED = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=48))
WORKLOAD = requests((100, 4), (60, 3), (30, 2), gap_ns=5_000)
APART = requests((100, 3), (60, 3), gap_ns=10_000_000)  # one request at a time
DECODE, PREFILL = 1, 0  # NPU numbers in the pair of one NPU each

dialects = pytest.mark.parametrize("dialect", ["chakra", "kaist"])


class EngineLog:
    """When each ticket was submitted, and when each of its parts finished."""

    def __init__(self, monkeypatch) -> None:
        self.tickets: dict[int, list[int]] = {}
        self.traces = {}
        self.started: dict[int, int] = {}
        self.finished: dict[tuple[int, int], int] = {}
        submit, advance = EngineController.submit, EngineController.advance

        def log_submit(controller, trace, at_ns):
            ticket = submit(controller, trace, at_ns)
            self.tickets.setdefault(trace.shape.instance.instance_id, []).append(ticket)
            self.started[ticket], self.traces[ticket] = at_ns, trace
            return ticket

        def log_advance(controller, until_ns):
            completions = advance(controller, until_ns)
            self.finished |= {(done.ticket, done.part): done.finish_ns for done in completions}
            return completions

        monkeypatch.setattr(EngineController, "submit", log_submit)
        monkeypatch.setattr(EngineController, "advance", log_advance)

    def took_ns(self, instance_id: int, iteration: int, part: int = 0) -> int:
        ticket = self.tickets[instance_id][iteration]
        return self.finished[ticket, part] - self.started[ticket]


@pytest.fixture
def log(monkeypatch) -> EngineLog:
    return EngineLog(monkeypatch)


def cluster_of(folder: Path, kinds, config=CHUNKED, **top):
    folder.mkdir(exist_ok=True)
    return load_cluster(cluster_file(folder, [instance(folder, *kind) for kind in kinds], **top), config)


def dump(folder: Path, cluster, workload=WORKLOAD, iterations=range(100), dialect="chakra", config=CHUNKED):
    settings = DumpSettings(folder, frozenset(iterations), dialect)
    return simulate(cluster, workload, config, [TraceDump(settings, cluster)])


def play(folder: Path, capsys, dialect: str = "chakra") -> dict[int, int]:
    """Cycles of every NPU that has any work."""
    code = astra_sim(
        [
            f"--workload-configuration={folder}/llm",
            f"--system-configuration={folder}/system.json",
            f"--network-configuration={folder}/network.yml",
            f"--remote-memory-configuration={folder}/memory_expansion.json",
            f"--comm-group-configuration={folder}/comm_group.json",
            f"--et-dialect={dialect}",
        ]
    )
    assert code == 0
    finish = {int(npu): int(cycles) for npu, cycles in FINISH.findall(capsys.readouterr().out)}
    return {npu: cycles for npu, cycles in finish.items() if cycles}


@dialects
@pytest.mark.parametrize("npus", [1, 2, 4])
def test_every_iteration_plays_in_the_time_that_it_took(tmp_path, capsys, log, npus, dialect):
    cluster = cluster_of(tmp_path, [(npus, None)], link_bw=3, link_latency=700)
    simulation = dump(tmp_path / "dump", cluster, dialect=dialect)
    iterations = simulation.instances[0].iterations
    assert iterations >= 6
    for number in range(iterations):
        cycles = play(tmp_path / f"dump/instance_0/iteration_{number}", capsys, dialect)
        assert max(cycles.values()) == log.took_ns(0, number)


@pytest.mark.parametrize("interleaved", [False, True], ids=["offloaded", "interleaved"])
@dialects
def test_iterations_with_attention_in_memory_play_in_their_time(tmp_path, capsys, log, dialect, interleaved):
    config = replace(CHUNKED, attn_offloading=True, sub_batch_interleaving=interleaved)
    cluster = pim_cluster(tmp_path, [instance(tmp_path, 2)], channels=3, config=config)
    iterations = dump(tmp_path / "dump", cluster, dialect=dialect, config=config).instances[0].iterations
    for number in range(iterations):
        cycles = play(tmp_path / f"dump/instance_0/iteration_{number}", capsys, dialect)
        assert max(cycles.values()) == log.took_ns(0, number)


def test_the_step_overhead_is_not_part_of_a_dump(tmp_path, capsys):
    cluster = cluster_of(tmp_path, [(1, None)])
    observer = TraceDump(DumpSettings(tmp_path / "dump", frozenset([0])), cluster)
    latency = LinearLatency(step_overhead_ns=700)
    (request,) = simulate(cluster, requests((20, 1)), CHUNKED, [observer], latency).finished
    assert play(tmp_path / "dump/instance_0/iteration_0", capsys) == {0: request.end_ns - 700}


@dialects
@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_prefill_iterations_play_in_their_time_with_kv_landing_beside(
    tmp_path, capsys, log, prefill, decode, dialect
):
    cluster = cluster_of(tmp_path, [(prefill, "prefill"), (decode, "decode")])
    simulation = dump(tmp_path / "dump", cluster, APART, dialect=dialect)
    assert simulation.instances[0].iterations == 5  # chunks of 48, 48, 4 and 48, 12
    for number in range(5):
        cycles = play(tmp_path / f"dump/instance_0/iteration_{number}", capsys, dialect)
        senders, receivers = range(prefill), range(prefill, prefill + decode)
        assert max(cycles[npu] for npu in senders) == log.took_ns(0, number)
        assert max(cycles[npu] for npu in receivers) == log.took_ns(0, number, part=1)


@dialects
def test_decode_iterations_play_in_the_time_that_they_took(tmp_path, capsys, log, dialect):
    cluster = cluster_of(tmp_path, [(1, "prefill"), (2, "decode")])
    simulation = dump(tmp_path / "dump", cluster, APART, dialect=dialect)
    assert simulation.instances[1].iterations == 4
    for number in range(4):
        cycles = play(tmp_path / f"dump/instance_1/iteration_{number}", capsys, dialect)
        assert max(cycles.values()) == log.took_ns(1, number)
        assert set(cycles) == {1, 2}


def test_kv_that_lands_after_the_iteration_plays_so_too(tmp_path, capsys, log):
    cluster = cluster_of(tmp_path, [(1, "prefill"), (1, "decode")], link_bw=0.05)
    dump(tmp_path / "dump", cluster, requests((40, 2)))
    iteration_ns, landing_ns = log.took_ns(0, 0), log.took_ns(0, 0, part=1)
    assert landing_ns > iteration_ns
    cycles = play(tmp_path / "dump/instance_0/iteration_0", capsys)
    assert cycles == {PREFILL: landing_ns, DECODE: landing_ns}  # a send ends when it has landed


def test_an_instance_keeps_its_npu_numbers_in_a_dump(tmp_path, capsys, log):
    cluster = cluster_of(tmp_path, [(1, None), (2, None)])
    dump(tmp_path / "dump", cluster, requests((20, 1), (20, 1), gap_ns=1_000_000))
    assert play(tmp_path / "dump/instance_0/iteration_0", capsys) == {0: log.took_ns(0, 0)}
    second = play(tmp_path / "dump/instance_1/iteration_0", capsys)
    assert set(second) == {1, 2}
    assert max(second.values()) == log.took_ns(1, 0)


def test_only_the_chosen_iterations_are_written(tmp_path):
    cluster = cluster_of(tmp_path, [(1, None), (1, None)])
    dump(tmp_path / "dump", cluster, iterations=[1, 3, 999])
    folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("dump/**/trace.txt")}
    assert folders == {f"dump/instance_{i}/iteration_{k}" for i, k in [(0, 1), (0, 3), (1, 1), (1, 3)]}


def test_nothing_is_written_if_no_chosen_iteration_comes(tmp_path):
    dump(tmp_path / "dump", cluster_of(tmp_path, [(1, None)]), iterations=[999])
    assert not (tmp_path / "dump").exists()


def test_a_dump_changes_nothing_in_the_run(tmp_path):
    cluster = cluster_of(tmp_path, [(2, "prefill"), (1, "decode")])
    dumped = dump(tmp_path / "dump", cluster).finished
    plain = simulate(cluster, WORKLOAD, CHUNKED).finished
    assert [r.token_times_ns().tolist() for r in dumped] == [r.token_times_ns().tolist() for r in plain]


def test_the_kaist_dialect_writes_the_node_types_of_the_fork(tmp_path):
    dump(tmp_path / "dump", cluster_of(tmp_path, [(2, None)]), dialect="kaist")
    records = read_et(tmp_path / "dump/instance_0/iteration_0/llm.0.et", "chakra")
    assert {record.node_type for record in records} == {2, 3, 5, 8}  # load, store, COMP, COLL


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_runs_side_by_side_write_what_they_write_alone(tmp_path):
    workloads = {"a": requests((100, 5)), "b": requests((37, 9))}
    clusters = {name: cluster_of(tmp_path / name, [(2, None)]) for name in workloads}
    for name, workload in workloads.items():
        dump(tmp_path / "alone" / name, clusters[name], workload)
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(dump, tmp_path / "together" / name, clusters[name], workload)
            for name, workload in workloads.items()
        ]
        for run in runs:
            run.result()
    together = files_of(tmp_path / "together")
    assert together == files_of(tmp_path / "alone")
    assert {name.split("/")[0] for name in together} == {"a", "b"}


def parsed(text: str) -> tuple[str, int, list[str], list[TraceRow]]:
    kind, count, header, *lines = text.splitlines()
    rows = []
    for line in lines:
        name, ns, *cells, comm_type, comm_bytes, misc = line.split()
        sizes = [int(cell) if number % 2 else cell for number, cell in enumerate(cells)]
        rows.append(TraceRow(name, int(ns), *sizes, comm_type, int(comm_bytes), misc))
    return kind, int(count), header.split(), rows


@pytest.mark.parametrize("kinds", [[(1, None)], [(4, None)], [(2, "prefill"), (1, "decode")]])
def test_text_traces_parse_back_into_the_rows_of_the_iteration(tmp_path, log, kinds):
    dump(tmp_path / "dump", cluster_of(tmp_path, kinds))
    for instance_id, tickets in log.tickets.items():
        for iteration, ticket in enumerate(tickets):
            file = tmp_path / f"dump/instance_{instance_id}/iteration_{iteration}/trace.txt"
            _, count, _, rows = parsed(file.read_text())
            assert rows == list(log.traces[ticket].rows())
            assert count == len(rows) == 27


def test_the_first_line_tells_the_kind_of_the_instance(tmp_path):
    sections = [(1, None), (1, "prefill"), (1, "decode")]
    specs = make_cluster(tmp_path, [instance(tmp_path, *one) for one in sections]).instances
    assert [trace_text(spec, []).splitlines()[0] for spec in specs] == [
        f"{kind}\t\tmodel_parallel_NPU_group: 1" for kind in ("COLOCATED", "PREFILL", "DECODE")
    ]


def test_lines_have_the_published_layout(tmp_path):
    (spec,) = make_cluster(tmp_path, [instance(tmp_path)]).instances
    row = TraceRow("q_proj_2", 50925, "LOCAL", 81920, "LOCAL", 33554432, "LOCAL", 81920, "ALLREDUCE", 7)
    assert trace_text(spec, [row]).splitlines()[1:] == [
        "1",
        "Layername                     comp_time      input_loc      input_size     weight_loc     weight_size"
        "    output_loc     output_size    comm_type      comm_size      misc           ",
        "q_proj_2                      50925          LOCAL          81920          LOCAL          33554432   "
        "    LOCAL          81920          ALLREDUCE      7              NONE           ",
    ]

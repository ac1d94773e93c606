"""What runs with pipeline stages leave behind: summary, iteration log, dumps, energy; and other engines."""

from __future__ import annotations

import csv
import json
import re

import pytest
from clusters import LinearLatency, cluster_file, requests, simulate
from pipeline_clusters import BLOCKS, hop_ns, pp_cluster, pp_instance, stage_ns
from power_clusters import ACTIVE_W, BASE_W, IDLE_W, RUNNING_CPU_W, STANDBY_W, power_block, powered_cluster
from test_external_engine import THIS_ENGINE, executable
from test_trace_dump import play

from inference_serving.cli import main
from inference_serving.power_model import PowerModel
from inference_serving.settings import DumpSettings, SchedulerSettings, SimulationConfig
from inference_serving.trace_dump import TraceDump

CHUNKED = SchedulerSettings(max_num_batched_tokens=48)


@pytest.fixture
def ran(tmp_path):
    """Iteration log and summary of a run of the command, with 48 tokens an iteration."""

    def run(section, work, *flags: str):
        names = ("in.jsonl", "log.csv", "run.json")
        workload, log, summary = (tmp_path / name for name in names)
        lines = [{"input_toks": p, "output_toks": o, "arrival_time_ns": 0} for p, o in work]
        workload.write_text("".join(json.dumps(line) + "\n" for line in lines))
        cluster = cluster_file(tmp_path, [section])
        given = ["--cluster-config", str(cluster), "--dataset", str(workload), "--iteration-log", str(log)]
        files = ["--summary-json", str(summary), "--max-num-batched-tokens", "48", "--step-overhead", "0"]
        assert main([*given, *files, *flags]) == 0
        with log.open() as opened:
            return list(csv.DictReader(opened)), json.loads(summary.read_text())["instances"][0]

    return run


def test_the_summary_has_the_stages_and_their_bubbles(tmp_path, ran, capsys):
    section = pp_instance(tmp_path, 2, partition=[4, 2])
    _, facts = ran(section, [(48, 1)] * 10)
    pipeline = facts["pipeline"]
    assert pipeline["blocks"] == [4, 2]
    first, second = pipeline["stage_busy_ns"]
    assert facts["busy_ns"] > first > second > 0
    assert pipeline["bubble_ratio"] == pytest.approx(1 - (first + second) / (2 * facts["busy_ns"]))
    printed = capsys.readouterr().out
    assert re.search(r"Blocks of pipeline stages: +4 \+ 2\n", printed)
    assert re.search(rf"Pipeline bubbles \(%\): +{100 * pipeline['bubble_ratio']:.1f}\n", printed)


def test_without_stages_the_summary_has_no_word_of_them(tmp_path, ran, capsys):
    _, facts = ran(pp_instance(tmp_path, 1), [(48, 1)])
    assert "pipeline" not in facts
    assert "ipeline" not in capsys.readouterr().out


def test_lines_of_the_iteration_log_overlap_and_each_prompt_token_is_in_one(tmp_path, ran):
    lines, facts = ran(pp_instance(tmp_path, 2), [(100, 3), (20, 2)])
    tokens = {0: 0, 1: 0}
    for line in lines:
        for part in line["prefills"].split():
            request_id, count = part.split(":")
            tokens[int(request_id)] += int(count)
    assert tokens == {0: 100, 1: 20}
    assert int(lines[1]["start"]) < int(lines[0]["end"])
    covered, until = 0, 0
    for line in sorted(lines, key=lambda one: int(one["start"])):
        begin, end = max(int(line["start"]), until), int(line["end"])
        covered, until = covered + max(end - begin, 0), max(until, end)
    assert covered == facts["busy_ns"]


@pytest.mark.parametrize("kinds", [[(2, 1, None)], [(2, 2, None)], [(3, 1, "prefill"), (2, 2, "decode")]])
def test_this_engine_as_an_executable_gives_the_results_of_this_engine(tmp_path, kinds):
    sections = [pp_instance(tmp_path, *kind) for kind in kinds]
    times = []
    for binary in (None, executable(tmp_path, THIS_ENGINE)):
        config = SimulationConfig(engine_binary=binary)
        work = requests((90, 3), (9, 2))
        simulation = simulate(pp_cluster(tmp_path, sections, config), work, config)
        times.append([request.token_times_ns().tolist() for request in simulation.requests])
    assert times[0] == times[1]


def test_an_executable_tells_only_when_an_npu_has_sent_too(tmp_path):
    """So a stage runs its next batch when the activations of the one before have landed."""
    ends = []
    for binary in (None, executable(tmp_path, THIS_ENGINE)):
        config = SimulationConfig(CHUNKED, engine_binary=binary)
        cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 2, partition=[5, 1])], config)
        ends.append(simulate(cluster, requests((96, 1)), config).finished[0].end_ns)
    assert ends[1] - ends[0] == hop_ns(48)


def test_every_stage_of_a_dumped_iteration_plays_in_its_time(tmp_path, capsys):
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 3)], link_latency=700)
    settings = DumpSettings(tmp_path / "dump", frozenset([0]))
    (request,) = simulate(cluster, requests((40, 1)), observers=[TraceDump(settings, cluster)]).finished
    way = 0
    for stage in range(3):
        folder = tmp_path / f"dump/instance_0/iteration_0/stage_{stage}"
        cycles = play(folder, capsys)
        assert set(cycles) == {stage, stage + 1} - {3}  # the stage's NPU, and the one that receives
        way += max(cycles.values())
        head = (folder / "trace.txt").read_text().splitlines()
        assert head[0] == "COLOCATED\t\tmodel_parallel_NPU_group: 3"
        assert len(head) == 3 + int(head[1])
        assert (f"TO_STAGE_{stage + 1}:{40 * 256}" in head[-1]) == (stage < 2)
    assert way == request.end_ns


def test_iterations_are_numbered_as_they_are_formed(tmp_path):
    config = SimulationConfig(CHUNKED)
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 2)], config)
    settings = DumpSettings(tmp_path / "dump", frozenset(range(1, 100)))
    run = simulate(cluster, requests((100, 3)), config, [TraceDump(settings, cluster)])
    written = sorted(folder.name for folder in (tmp_path / "dump/instance_0").iterdir())
    assert run.instances[0].iterations == 5
    assert written == [f"iteration_{number}" for number in range(1, 5)]


def test_each_stage_is_on_standby_while_it_runs_and_idle_else(tmp_path):
    section = pp_instance(tmp_path, 2)
    block = power_block(npu={"standby_duration": 0})
    cluster = powered_cluster(tmp_path, [section], block)
    power = PowerModel(cluster, 10**9)
    (request,) = simulate(cluster, requests((100, 1)), observers=[power]).finished
    joules = power.report().nodes[0].by_part_j()
    prompt = 500 + 100 * 100
    stages = [stage_ns(100, prompt, 3, first=True), stage_ns(100, prompt, 3, last=True)]
    layers = sum(stages) - int(400 / 256)
    npu_ns = 2 * IDLE_W * request.end_ns + (STANDBY_W - IDLE_W) * sum(stages)
    npu_ns += (ACTIVE_W - STANDBY_W) * layers
    assert joules["npu"] == pytest.approx(npu_ns * 1e-9)
    # the host works for whichever stage runs; nothing does while the activations are on their way
    assert request.end_ns == sum(stages) + hop_ns(100)
    base = 10 + 0.2 * 100
    assert joules["cpu"] == pytest.approx((base * request.end_ns + RUNNING_CPU_W * sum(stages)) * 1e-9)


def test_the_energy_of_requests_adds_up_over_batches_that_overlap(tmp_path):
    config = SimulationConfig(CHUNKED)
    section = pp_instance(tmp_path, 3)
    block = power_block(npu={"standby_duration": 0})
    cluster = powered_cluster(tmp_path, [section], block, config)
    power = PowerModel(cluster, 10**9)
    run = simulate(cluster, requests(*[(100, 4), (20, 9), (48, 1)] * 4, gap_ns=20_000), config, [power])
    report = power.report()
    idle_w = 3 * IDLE_W + sum(BASE_W.values())
    assert report.unassigned_j == pytest.approx(idle_w * report.duration_ns * 1e-9)
    assert report.assigned_j == pytest.approx(report.total_j - report.unassigned_j)
    assert all(report.of_request_j(request.request_id) > 0 for request in run.requests)


def test_layers_count_once_by_where_their_times_come_from(tmp_path):
    """Compute time by provenance is that of the whole model, however many stages run it."""
    spent = []
    for stages in (1, 2, 3):
        run = simulate(pp_cluster(tmp_path, [pp_instance(tmp_path, stages)]), requests((100, 3)))
        spent.append(sum(run.instances[0].traces.provenance_ns().values()))
    assert spent[0] == spent[1] == spent[2]
    layer = LinearLatency().layer_ns("q_proj", 100)  # type: ignore[arg-type]
    assert spent[0] > BLOCKS * 11 * int(layer)

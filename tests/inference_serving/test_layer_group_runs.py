"""Whole runs in layer groups: the same times, the step overhead, what a run shows, dumps, external engines."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from clusters import LinearLatency, instance, make_cluster, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_group_runs import cluster_of, run_in_groups, token_times

from astra_sim.cli import main as astra_sim
from inference_serving.output import collect
from inference_serving.progress import IntervalLog
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import DumpSettings, SchedulerSettings, SimulationConfig
from inference_serving.trace_dump import TraceDump

CHUNKED = SimulationConfig(scheduler=SchedulerSettings(max_num_batched_tokens=64))
MIXED = [(300, 5), (20, 1), (7, 40), (150, 12), (1, 3)]
FINISH = re.compile(r"sys\[(\d+)\] finished, (\d+) cycles")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("clusters")


lengths = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 6)), min_size=1, max_size=8)


@settings(max_examples=40)
@given(lengths, st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 2, 4]), st.integers(0, 60_000))
def test_groups_that_nobody_interrupts_change_no_time(folder, workload, blocks, count, npus, gap_ns):
    cluster = cluster_of(folder, (npus, None), blocks=blocks, config=CHUNKED)
    work = requests(*workload, gap_ns=gap_ns)
    whole, _ = run_in_groups(cluster, work, 1, CHUNKED)
    cut, _ = run_in_groups(cluster, work, count, CHUNKED)
    assert token_times(cut) == token_times(whole)
    assert cut.instances[0].iterations == whole.instances[0].iterations * min(blocks, count)


def test_a_summary_in_groups_differs_in_nothing_but_the_iterations(tmp_path):
    cluster = cluster_of(tmp_path, (1, None), config=CHUNKED)
    whole, cut = (
        collect(cluster, run_in_groups(cluster, requests(*MIXED), count, CHUNKED)[0]).summary
        for count in (1, 3)
    )
    (one,) = whole.instances
    assert cut == replace(whole, instances=(replace(one, iterations=3 * one.iterations),))


@pytest.mark.parametrize(
    ("step_ns", "group_ns", "delay_ns"),
    [(None, None, 4 * 700), (200, None, 4 * 200), (None, 0, 700), (200, 50, 200 + 3 * 50), (0, 0, 0)],
)
def test_the_first_group_pays_for_the_step_and_each_later_one_for_its_boundary(
    tmp_path, step_ns, group_ns, delay_ns
):
    cluster, work = cluster_of(tmp_path, (1, None)), requests((50, 2))
    config = SimulationConfig(step_overhead_ns=step_ns, layer_group_overhead_ns=group_ns)
    plain, _ = run_in_groups(cluster, work, 4)
    slow, _ = run_in_groups(cluster, work, 4, config, latency=LinearLatency(step_overhead_ns=700))
    first, second = token_times(plain)[0]
    assert token_times(slow)[0] == [first + delay_ns, second + 2 * delay_ns]


def test_an_interval_line_counts_the_tokens_of_a_prompt_once(tmp_path):
    lines = []
    for count in (1, 3):
        stream = io.StringIO()
        instances: dict = {}
        log = IntervalLog(instances, 100_000_000, stream)
        cluster = cluster_of(tmp_path, (1, None), config=CHUNKED)
        simulation, _ = run_in_groups(cluster, requests(*MIXED), count, CHUNKED, observers=[log])
        instances |= simulation.instances
        log.finish()
        lines.append(stream.getvalue())
    assert "prompt throughput" in lines[0]
    assert lines[1] == lines[0]


def play(folder: Path, capsys) -> int:
    """Cycles of a dumped iteration's last NPU."""
    code = astra_sim(
        [
            f"--workload-configuration={folder}/llm",
            f"--system-configuration={folder}/system.json",
            f"--network-configuration={folder}/network.yml",
            f"--remote-memory-configuration={folder}/memory_expansion.json",
            f"--comm-group-configuration={folder}/comm_group.json",
        ]
    )
    assert code == 0
    return max(int(cycles) for _, cycles in FINISH.findall(capsys.readouterr().out))


@pytest.mark.parametrize("npus", [1, 2])
def test_every_group_is_dumped_as_an_iteration_that_plays_in_its_time(tmp_path, capsys, npus):
    cluster = cluster_of(tmp_path, (npus, None))
    observer = TraceDump(DumpSettings(tmp_path / "dump", frozenset(range(9))), cluster)
    simulation, log = run_in_groups(cluster, requests((60, 1)), 3, observers=[observer])
    ends_ns = [*log.started_ns[1:], simulation.finished[0].end_ns]
    took_ns = [end_ns - start_ns for start_ns, end_ns in zip(log.started_ns, ends_ns, strict=True)]
    folders = sorted((tmp_path / "dump/instance_0").iterdir())
    assert [play(one, capsys) for one in folders] == took_ns
    names = [line.split()[0] for one in folders for line in (one / "trace.txt").read_text().splitlines()[3:]]
    assert names == [row.name for _, trace in log.traces for row in trace.rows()]
    assert (len(names), names[0], names[-1]) == (1 + 6 * 12 + 2, "embedding_0", "lm_head_74")


@pytest.mark.parametrize("kinds", [[(1, None)], [(2, None)], [(1, "prefill"), (1, "decode")]])
def test_an_external_engine_runs_groups_as_this_engine_does(tmp_path, kinds):
    binary = tmp_path / "AstraSim_Analytical"
    binary.write_text(
        f"#!{sys.executable}\nimport sys; from astra_sim.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    binary.chmod(0o755)
    cluster, work = cluster_of(tmp_path, *kinds, blocks=3), requests((40, 2))
    inside, _ = run_in_groups(cluster, work, 2)
    outside, _ = run_in_groups(cluster, work, 2, SimulationConfig(engine_binary=binary))
    assert token_times(outside) == token_times(inside)
    assert outside.counters.p2p_bytes == inside.counters.p2p_bytes


def test_a_chunk_in_groups_shrinks_to_what_a_prefix_found_as_it_starts_has_left_of_the_prompt(tmp_path):
    """Both prompts arrive cold; when the second starts, 48 of its 64 tokens are there, so 16 run instead of 24."""
    settings = SchedulerSettings(
        enable_prefix_caching=True, scheduling_policy="srpt", policy_args=(("groups", "2"), ("chunk", "24"))
    )
    config = SimulationConfig(settings)
    cluster = make_cluster(tmp_path, [instance(tmp_path, 1, role) for role in ("prefill", "decode")], config)
    shared = tuple(range(48))
    workload = [
        RequestSpec(
            number, 0, 64, 5, input_token_ids=shared + (100 + number,) * 16, output_token_ids=(9,) * 5
        )
        for number in range(2)
    ]
    simulation = simulate(cluster, workload, config)
    assert sorted(one.request_id for one in simulation.finished) == [0, 1]
    second = simulation.requests[1]
    assert second.prefix_hit_tokens == 48
    assert second.job is not None
    assert (second.job.computed, second.job.chunks) == (64, 1)

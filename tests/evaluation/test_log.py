"""What a run has printed holds the numbers of its summary, whoever printed it."""

from __future__ import annotations

import pytest

from astra_sim.input_error import InputError
from evaluation.inputs import ROOT
from evaluation.parser.__main__ import main as print_rows
from evaluation.parser.component_power import component_rows
from evaluation.parser.hit_rate import hit_rate_rows, logged_hit_rate_rows
from evaluation.parser.latency import latency_rows
from evaluation.parser.memory import logged_memory_rows
from evaluation.parser.power import logged_power_rows, power_rows
from evaluation.parser.simulation_time import simulation_time_rows
from evaluation.parser.throughput import logged_throughput_rows, throughput_rows
from evaluation.rows import value_in
from inference_serving.cli import main as simulate

LOG = """\
starting; nothing that a parser looks at: 7
\x1b[32m[1.00s]\x1b[0m prompt throughput: 50.0 tok/s, generation throughput: 20.0 tok/s, running: 2 reqs, \
waiting: 0 reqs, KV cache: 1.5 %, prefix hits: 10.0 %, storage hits: 2.0 %, power: 300.0 W
[3.00s] prompt throughput: 0.0 tok/s, generation throughput: 30.0 tok/s, running: 0 reqs, waiting: 0 reqs, \
KV cache: 0.5 %, prefix hits: 20.0 %, storage hits: 4.0 %, power: 100.0 W
--------------- Throughput Results ---------------
Finished requests:                  4 of 4
Total clocks (ns):              3000000000
Mean latency (s):                    1.500
Total input tokens:                     50
Total generated tokens:                 50
Request throughput (req/s):           1.33
Prompt throughput (tok/s):           16.67
Generation throughput (tok/s):       16.67
\x1b[1m=============== Instance 0 (colocated) ===============\x1b[0m
Requests:                                3
Mean TTFT (ms):                      10.00
Median TTFT (ms):                     9.00
P99 TTFT (ms):                       20.00
Mean TPOT (us):                    5000.00
Mean ITL (ms):                        4.00
=============== Instance 1 (colocated) ===============
Requests:                                1
Mean TTFT (ms):                      50.00
Mean TPOT (ms):                       9.00
Mean ITL (ms):                        8.00
==================== Power Results ====================
Total energy (J):                  3000.0
Mean power (W):                    1000.0
Peak interval power (W):           1200.0
Energy per generated token (J):     60.000
Node 0 npu (kJ):              2.000 (66.7 %)
Node 1 npu (kJ):              0.500 (16.7 %)
Node 1 link (kJ):             0.500 (16.7 %)
=================== Simulation Results ===================
Simulation time (ms):              2500
"""


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "run.log"
    file.write_text(LOG, encoding="utf-8")
    return file


def values(rows):
    return {row.metric: row.value for row in rows if not row.time_s}


def series(rows):
    return {float(row.time_s): row.value for row in rows}


def test_totals_are_in_their_own_units(log):
    assert values(throughput_rows("A", log)) == {
        "requests": 4,
        "prompt_tokens": 50,
        "generated_tokens": 50,
        "makespan_s": 3,
        "mean_throughput_tok_s": 16.67,
    }
    assert values(simulation_time_rows("A", log)) == {"simulation_time_s": 2.5}


def test_means_of_instances_count_as_their_requests_and_percentiles_are_not_guessed(log):
    """TTFT: (3 * 10 + 50) / 4; TPOT: (3 * 5 + 9) / 4; ITL: (3 * 4 + 8) / 4."""
    found = values(latency_rows("A", log))
    expected = {"mean_ttft_ms": 20, "mean_tpot_ms": 6, "mean_itl_ms": 5, "mean_latency_ms": 1500}
    assert found == pytest.approx(expected)


def test_series_are_those_of_the_interval_lines(log):
    assert series(logged_throughput_rows("A", log)) == {1: 20, 3: 30}
    assert series(logged_memory_rows("A", log)) == {1: 1.5, 3: 0.5}
    assert series(logged_power_rows("A", log)) == {1: 300, 3: 100}
    hits = logged_hit_rate_rows("A", log)
    assert series(row for row in hits if "storage" not in row.metric) == {1: 10, 3: 20}


def test_hits_of_all_instances_are_those_of_the_last_interval(log):
    assert values(hit_rate_rows("A", log)) == {"prefix_hit_percent": 20, "storage_hit_percent": 4}


def test_energy_is_in_kj_and_components_are_summed_over_nodes(log):
    assert values(power_rows("A", log)) == {
        "energy_kj": 3,
        "mean_power_w": 1000,
        "peak_power_w": 1200,
        "energy_per_token_j": 60,
    }
    assert values(component_rows("A", log)) == {
        "component_npu_energy_kj": 2.5,
        "component_link_energy_kj": 0.5,
    }


def test_a_log_without_results_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "stopped.log").write_text("error: no such cluster\n")
    with pytest.raises(InputError, match="Throughput Results"):
        throughput_rows("A", tmp_path / "stopped.log")
    assert print_rows([str(tmp_path / "stopped.log")]) == 2
    assert "stopped.log" in capsys.readouterr().err


def test_a_runs_own_log_and_its_summary_tell_the_same(tmp_path, capsys):
    """Of one instance everything but the median and the 99th percentile of latency, to the digits printed."""
    files = {"--output": "run.csv", "--summary-json": "run.json", "--power-series": "power.tsv"}
    flags = [text for flag, name in files.items() for text in (flag, str(tmp_path / name))]
    config = ROOT / "cluster_config/single_node_power_instance.json"
    workload = ROOT / "dataset/conversations.jsonl"
    arguments = [
        "--cluster-config",
        str(config),
        "--dataset",
        str(workload),
        "--enable-prefix-caching",
        *flags,
    ]
    assert simulate(arguments) == 0
    log = tmp_path / "printed.log"
    log.write_text(capsys.readouterr().out)
    assert print_rows([str(tmp_path / "run.json")]) == 0
    told = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    rows = [*throughput_rows("A", log), *latency_rows("A", log), *hit_rate_rows("A", log)]
    rows += [*power_rows("A", log), *component_rows("A", log)]
    unknown = {"median_latency_ms", "p99_latency_ms"}
    assert {metric for _, metric, _, _ in told} - {row.metric for row in rows} == unknown
    for _, metric, _, value in told:
        if metric not in unknown:
            assert value_in(rows, "A", metric) == pytest.approx(float(value), rel=0.01, abs=1e-3), metric

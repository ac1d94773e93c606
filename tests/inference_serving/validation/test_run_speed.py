"""``--fit-speed``: the factor between a recorded run and the latencies, found again where it was put in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from validation_runs import write_lines, write_recording

from inference_serving.run_speed import fit_speed
from inference_serving.validate import main
from inference_serving.validation.readers import read_run
from llm_profile.iteration_time import iteration_ns
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.model_config import load_model_config

CONFIGS = Path(__file__).parents[3] / "cluster_config"
CLUSTER = CONFIGS / "single_node_single_instance.json"
FACTORS = (0.5, 1.25, 1.5, 1.25, 40.0)
"""Real over predicted time of each iteration; one was disturbed."""


@pytest.fixture
def recording(tmp_path) -> Path:
    """A run whose iterations take ``FACTORS`` as long as the cluster's latencies say."""
    (instance,) = json.loads(CLUSTER.read_text())["nodes"][0]["instances"]
    model = load_model_config(instance["model_name"])
    bandwidth = instance["npu_mem"]["mem_bw"]
    query = LatencyQuery(instance["hardware"], model, 1, mem_bw_gbps=bandwidth, packed_decode=True)
    latency = open_latency_model(query, "calibrated")
    events = [{"ev": "add", "t": 0.0}]
    for number, factor in enumerate(FACTORS):
        prefill, context, kv = 64 + number, 100 * number, [500, 30]
        batch = (np.array([prefill]), np.array([context]), np.array(kv))
        seconds = factor * iteration_ns(latency, model, *batch) / 1e9
        items = [["a", prefill, context, 4000], ["b", 1, kv[0] - 1, 10], ["c", 1, kv[1] - 1, 10]]
        events.append({"ev": "it", "items": items, "t0": 1.0, "t1": 1.0, "t2": 1.0, "t3": 1.0 + seconds})
    write_lines(tmp_path / "a.iters.jsonl.gz", *events)
    return write_recording(tmp_path / "a.reqs.jsonl.gz")


def flags(cluster: Path = CLUSTER) -> list[str]:
    return ["--cluster-config", str(cluster), "--latency-source", "calibrated"]


def test_the_factor_is_the_median_over_the_iterations(recording):
    speed = fit_speed(read_run(recording), flags())
    assert speed.factor == pytest.approx(1.25, rel=1e-6)
    assert speed.iterations == len(FACTORS)
    assert speed.error_before == pytest.approx(1 / 3, rel=1e-6)  # of 1.5
    assert speed.error_after == pytest.approx(1 - 1.25 / 1.5, rel=1e-6)


def test_the_simulation_runs_with_all_latencies_times_the_factor(recording, tmp_path, capsys):
    out = [tmp_path / "fitted.csv", tmp_path / "given.csv"]
    assert main([str(recording), "--simulate", *flags(), "--fit-speed", "--csv", str(out[0])]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("speed factor: 1.250 (median of real over calibrated:")
    assert "*1.25" in printed  # the name of the latencies says that they are scaled
    factor = repr(fit_speed(read_run(recording), flags()).factor)
    scaled = [str(recording), "--simulate", *flags(), "--latency-scale", factor, "--csv", str(out[1])]
    assert main(scaled) == 0
    assert out[0].read_text() == out[1].read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--fit-speed", "--latency-scale", "2"],
            "--fit-speed: sets --latency-scale itself; give one of the two",
        ),
        (["--latency-scale", "0"], "--latency-scale: 0: must be between 0.001 and 1000"),
        (["--latency-scale", "nan"], "--latency-scale: nan: must be between 0.001 and 1000"),
    ],
)
def test_factors_that_make_no_sense_are_refused(recording, more, said, capsys):
    assert main([str(recording), "--simulate", *flags(), *more]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_it_needs_a_simulation(recording, tmp_path, capsys):
    assert main([str(recording), "--csv", str(tmp_path / "sim.csv"), "--fit-speed"]) == 2
    assert capsys.readouterr().err == "error: --fit-speed: needs --simulate\n"


def test_it_needs_the_iterations_of_the_run_on_one_npu(recording, tmp_path, capsys):
    command = [str(recording), "--simulate", "--fit-speed"]
    two = CONFIGS / "single_node_multi_instance.json"
    assert main([*command, *flags(two)]) == 2
    assert "needs one instance of one NPU, as the run had" in capsys.readouterr().err
    broken = {"ev": "it", "items": [["a", 1]], "t0": 1.0}
    write_lines(tmp_path / "a.iters.jsonl.gz", broken)
    assert main([*command, *flags()]) == 2
    assert "line 1: is no iteration: it needs items" in capsys.readouterr().err
    (tmp_path / "a.iters.jsonl.gz").unlink()
    assert main([*command, *flags()]) == 2
    assert "--fit-speed needs the iterations of the run: NAME.reqs.jsonl[.gz]" in capsys.readouterr().err

"""An external executable in the place of the engine: same results from the same program, clear errors else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from clusters import cluster_file, instance, make_cluster, requests, simulate

from astra_sim.input_error import InputError
from inference_serving import cli
from inference_serving.external_engine import ExternalEngineError
from inference_serving.settings import SimulationConfig


def executable(folder: Path, body: str) -> Path:
    """A Python script that is started like ASTRA-Sim."""
    file = folder / "AstraSim_Analytical"
    file.write_text(f"#!{sys.executable}\n{body}")
    file.chmod(0o755)
    return file


THIS_ENGINE = "import sys; from astra_sim.cli import main; sys.exit(main(sys.argv[1:]))"
FAKE = """
import pathlib, sys
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
for name in ("system", "network", "remote-memory"):
    assert pathlib.Path(flags[f"{name}-configuration"]).exists(), name
prefix = pathlib.Path(flags["workload-configuration"])
for trace in sorted(prefix.parent.glob("llm.*.et")):
    npu = int(trace.name.split(".")[1])
    print(f"[workload] [info] sys[{npu}] finished, {1000 * (npu + 1)} cycles, exposed communication 0 cycles.")
"""


@pytest.mark.parametrize(
    "npus", [[(1, None)], [(2, None)], [(1, "prefill"), (1, "decode")]], ids=["one NPU", "TP2", "P/D"]
)
def test_this_engine_as_an_executable_gives_the_results_of_this_engine(tmp_path, npus):
    sections = [instance(tmp_path, count, role) for count, role in npus]
    times = []
    for binary in (None, executable(tmp_path, THIS_ENGINE)):
        config = SimulationConfig(engine_binary=binary)
        simulation = simulate(make_cluster(tmp_path, sections, config), requests((40, 3), (9, 2)), config)
        finished = sorted(simulation.finished, key=lambda request: request.request_id)
        times.append([request.token_times_ns().tolist() for request in finished])
    assert times[0] == times[1]


def test_an_iteration_ends_when_the_last_of_its_own_npus_does_and_kv_lands_with_the_receivers(tmp_path):
    """The fake says 1000 ns for NPU 0 and 2000 ns for NPU 1: the KV lands 1000 ns after the first token."""
    sections = [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")]
    config = SimulationConfig(engine_binary=executable(tmp_path, FAKE))
    simulation = simulate(make_cluster(tmp_path, sections, config), requests((40, 3)), config)
    # decode iterations run on NPU 1
    assert simulation.finished[0].token_times_ns().tolist() == [1000, 4000, 6000]
    assert simulation.counters.p2p_bytes == 40 * 2 * 4 * 16 * 2 * 2


def test_an_executable_that_says_nothing_ends_the_run_with_its_last_words(tmp_path):
    binary = executable(tmp_path, "import sys; sys.exit('cannot read the network')")
    config = SimulationConfig(engine_binary=binary)
    with pytest.raises(ExternalEngineError) as caught:
        simulate(make_cluster(tmp_path, [instance(tmp_path)], config), requests((4, 1)), config)
    assert str(caught.value) == (
        "AstraSim_Analytical ended with exit code 1 and no finish line for NPU 0: cannot read the network"
    )


def test_what_is_no_executable_is_refused_before_the_run(tmp_path):
    (tmp_path / "data").write_text("x")
    for name in ("missing", "data"):
        config = SimulationConfig(engine_binary=tmp_path / name)
        with pytest.raises(InputError, match="--engine-binary: is not an executable file"):
            simulate(make_cluster(tmp_path, [instance(tmp_path)], config), requests((4, 1)), config)


def test_the_command_line_takes_the_executable(tmp_path, capsys):
    (tmp_path / "load.jsonl").write_text('{"input_toks": 4, "output_toks": 2, "arrival_time_ns": 0}\n')
    argv = ["--cluster-config", str(cluster_file(tmp_path, [instance(tmp_path)]))]
    argv += ["--dataset", str(tmp_path / "load.jsonl"), "--engine-binary", str(executable(tmp_path, FAKE))]
    assert cli.main(argv) == 0
    assert "Total clocks (ns):                                    2000" in capsys.readouterr().out


def test_an_executable_brings_its_own_network(tmp_path, capsys):
    argv = ["--dataset", "x.jsonl", "--engine-binary", "x", "--network-backend", "analytical-aware"]
    assert cli.main(argv) == 2
    assert capsys.readouterr().err == (
        "error: --network-backend: analytical-aware: --engine-binary brings its own network; drop one of the two\n"
    )

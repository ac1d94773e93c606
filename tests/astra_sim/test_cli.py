"""``python -m astra_sim``: finish lines, statistics, and one clear error with exit code 2."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from astra_sim_builders import all_reduce, comp, numbers, recv, send

from astra_sim import (
    Graph,
    NetworkConfig,
    SystemConfig,
    write_comm_groups,
    write_graphs,
    write_network,
    write_system,
)
from astra_sim.cli import main


@pytest.fixture
def case(tmp_path):
    """Write a case of two NPUs and return a function that runs the command on it."""
    write_network(tmp_path / "network.yml", NetworkConfig.flat("Switch", 2, 50, 500))
    write_system(tmp_path / "system.json", SystemConfig(local_mem_bw_gbps=1600))

    def run(graphs, *flags: str) -> int:
        groups = write_graphs(
            tmp_path / "t", [Graph(tuple(g)) for g in graphs], numbers(3000), numbers(1 << 20)
        )
        write_comm_groups(tmp_path / "groups.json", groups)
        return main(
            [
                f"--workload-configuration={tmp_path}/t",
                "--system-configuration",
                f"{tmp_path}/system.json",
                f"--network-configuration={tmp_path}/network.yml",
                *flags,
            ]
        )

    run.folder = tmp_path
    return run


FINE = [[comp(0), all_reduce(1, 0)], [comp(0), all_reduce(1, 0)]]


def test_every_npu_gets_its_finish_line(case, capsys):
    assert case(FINE) == 0
    out = capsys.readouterr().out
    lines = re.findall(r"^\[.*\] \[workload\] \[info\] (.*)$", out, re.MULTILINE)
    assert lines == [
        "sys[0] finished, 25541 cycles, exposed communication 22541 cycles.",
        "sys[1] finished, 25541 cycles, exposed communication 22541 cycles.",
    ]
    assert "sys[0], Wall time: 25541" in out
    assert "sys[0], GPU time: 3000" in out
    assert "sys[0], Comm time: 22541" in out


def test_the_report_is_logged_when_a_folder_is_given(case, capsys):
    assert case(FINE, "--logging-folder", f"{case.folder}/log") == 0
    assert (case.folder / "log" / "log.log").read_text() == capsys.readouterr().out


def test_injection_scale_multiplies_the_endpoint_delay(case, capsys):
    assert case(FINE, "--injection-scale", "2") == 0
    assert "sys[0] finished, 25571 cycles" in capsys.readouterr().out


def test_flags_without_effect_are_accepted(case):
    assert (
        case(
            FINE,
            "--comm-scale=2",
            "--compute-scale",
            "3",
            "--rendezvous-protocol=false",
            "--comm-group-configuration=empty",
        )
        == 0
    )


def test_both_dialects_give_the_same_result(case, capsys):
    assert case(FINE) == 0
    chakra = capsys.readouterr().out
    write_graphs(
        case.folder / "t", [Graph(tuple(g)) for g in FINE], numbers(3000), numbers(1 << 20), dialect="kaist"
    )
    flags = [
        "workload-configuration",
        "t",
        "system-configuration",
        "system.json",
        "network-configuration",
        "network.yml",
    ]
    pairs = zip(flags[::2], flags[1::2], strict=True)
    assert main([f"--{flag}={case.folder}/{file}" for flag, file in pairs] + ["--et-dialect=kaist"]) == 0
    assert re.findall("finished, .*", capsys.readouterr().out) == re.findall("finished, .*", chakra)


@pytest.mark.parametrize(
    ("graphs", "flags", "message"),
    [
        (
            [[comp(0, 1), comp(1, 0)], []],
            [],
            "error: NPU 0: dependency cycle: 0 (comp0) -> 1 (comp1) -> 0 (comp0)",
        ),
        (
            [[comp(0)], [recv(4, 0)]],
            [],
            "NPU 1, node 4 (recv4) waits for 1048576 bytes with tag 0 from NPU 0, which has no such send left",
        ),
        (
            [[comp(0)], [comp(0), all_reduce(1, 0)]],
            [],
            "NPU 1, node 1 (ALL_REDUCE) waits for NPU 0, which has no collective left to join it",
        ),
        ([[send(0, 1), comp(1, 7)], []], [], "error: NPU 0, node 1 (comp1): depends on node 7"),
        (
            [[all_reduce(0, group=(0,))], []],
            ["--comm-group-configuration", "GROUPS"],
            "a group of one NPU would never",
        ),
    ],
)
def test_what_is_wrong_is_said_once_with_exit_code_2(case, capsys, graphs, flags, message):
    flags = [f"{case.folder}/groups.json" if flag == "GROUPS" else flag for flag in flags]
    assert case(graphs, *flags) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_npus_that_finish_before_a_deadlock_still_get_their_line(case, capsys):
    assert case([[comp(0)], [recv(0, 0)]]) == 2
    captured = capsys.readouterr()
    assert "sys[0] finished, 3000 cycles" in captured.out
    assert "sys[1]" not in captured.out
    assert captured.err.startswith("error: deadlock: 1 node on 1 NPU can never finish")


def test_a_collective_that_would_step_at_time_0_is_refused(case, capsys):
    write_system(case.folder / "system.json", SystemConfig(local_mem_bw_gbps=1600, endpoint_delay_ns=0))
    assert case([[all_reduce(0)]] * 2) == 2
    assert (
        "endpoint-delay: 0 makes the collective of NPU 0, node 0 (ALL_REDUCE), step at time 0"
        in capsys.readouterr().err
    )


def test_a_missing_trace_is_named(case, capsys):
    write_network(case.folder / "network.yml", NetworkConfig.flat("Switch", 3, 50, 500))
    assert case(FINE) == 2
    assert capsys.readouterr().err == f"error: {case.folder}/t.2.et: no such file\n"


def test_help_and_bad_flags_as_a_program():
    module = [sys.executable, "-m", "astra_sim"]
    shown = subprocess.run([*module, "--help"], capture_output=True, text=True, check=True)
    assert "--workload-configuration PREFIX" in shown.stdout
    wrong = subprocess.run([*module, "--workload"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2

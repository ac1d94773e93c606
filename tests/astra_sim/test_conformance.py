"""Finish cycles recorded from ASTRA-Sim itself, case by case, where the corpus is at hand.

CONFORMANCE_DIR names its folder (default: shared/conformance beside the repository). Every case must agree
exactly with the recording or be refused as not supported yet.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from astra_sim.cli import main

CORPUS = Path(os.environ.get("CONFORMANCE_DIR") or Path(__file__).parents[3] / "shared" / "conformance")
CASES = sorted(CORPUS.glob("cases/*/case.json"))
FINISH = re.compile(r"sys\[(\d+)\] finished, (\d+) cycles, exposed communication (-?\d+) cycles")

pytestmark = pytest.mark.skipif(not CASES, reason="no conformance corpus")


def arguments(folder: Path, case) -> list[str]:
    groups = folder / "comm_group.json"
    return [
        f"--workload-configuration={folder}/trace",
        f"--system-configuration={folder}/system.json",
        f"--network-configuration={folder}/network.yml",
        f"--remote-memory-configuration={folder}/memory.json",
        f"--comm-group-configuration={groups if groups.exists() else 'empty'}",
        f"--num-queues-per-dim={case['queues']}",
        f"--injection-scale={case['injection']}",
        f"--rendezvous-protocol={str(case['rendezvous']).lower()}",
    ]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_case(path, capsys):
    folder = path.parent
    case = json.loads(path.read_text())
    expected = json.loads((folder / "expected.json").read_text())["unaware"]
    code = main(arguments(folder, case))
    captured = capsys.readouterr()
    if code == 2:
        assert captured.err.startswith("error: ")
        if not case["quirk"]:
            assert "not supported yet" in captured.err
            pytest.skip(captured.err.strip())
        return
    finish = {int(npu): (int(cycles), int(exposed)) for npu, cycles, exposed in FINISH.findall(captured.out)}
    wanted = dict(enumerate(zip(expected["finish"], expected["exposed"], strict=True)))
    assert finish == wanted


@pytest.mark.parametrize("name", (CORPUS / "ring_unaware.txt").read_text().split() if CASES else [])
def test_ring_cases_are_supported(name, capsys):
    folder = CORPUS / "cases" / name
    assert main(arguments(folder, json.loads((folder / "case.json").read_text()))) == 0

"""Finish cycles recorded from ASTRA-Sim itself, case by case, where the corpus is at hand.

CONFORMANCE_DIR names its folder (default: shared/conformance beside the repository). Every case must agree
exactly with the recording. Where the original hangs, crashes or is silent ("quirk"), the recorded result, an
error with exit code 2, or one of BETTER is wanted.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from astra_sim.cli import main

CORPUS = Path(os.environ.get("CONFORMANCE_DIR") or Path(__file__).parents[3] / "shared" / "conformance")
FINISH = re.compile(r"sys\[(\d+)\] finished, (\d+) cycles, exposed communication (-?\d+) cycles")
BETTER = {
    "q_ring2_aware": "a ring of two NPUs has a link each way; the original aborts",
    "q_mem_then_recv": "memory nodes are part of the statistics; the original aborts on them",
}


def recorded() -> list:
    """(folder, case, backend) of every deterministic recording."""
    found = []
    for path in sorted(CORPUS.glob("cases/*/case.json")):
        case = json.loads(path.read_text())
        if case.get("deterministic", True):
            found += [
                pytest.param(path.parent, case, b, id=f"{path.parent.name}-{b}") for b in case["backends"]
            ]
    return found


RECORDED = recorded()
pytestmark = pytest.mark.skipif(not RECORDED, reason="no conformance corpus")


def arguments(folder: Path, case, backend: str) -> list[str]:
    groups = folder / "comm_group.json"
    return [
        f"--network-backend={backend}",
        f"--workload-configuration={folder}/trace",
        f"--system-configuration={folder}/system.json",
        f"--network-configuration={folder}/network.yml",
        f"--remote-memory-configuration={folder}/memory.json",
        f"--comm-group-configuration={groups if groups.exists() else 'empty'}",
        f"--num-queues-per-dim={case['queues']}",
        f"--injection-scale={case['injection']}",
        f"--rendezvous-protocol={str(case['rendezvous']).lower()}",
    ]


@pytest.mark.parametrize(("folder", "case", "backend"), RECORDED)
def test_case(folder, case, backend, capsys):
    expected = json.loads((folder / "expected.json").read_text())[backend]
    code = main(arguments(folder, case, backend))
    captured = capsys.readouterr()
    finish = {int(npu): (int(cycles), int(exposed)) for npu, cycles, exposed in FINISH.findall(captured.out)}
    if case["quirk"] and code == 2:
        assert captured.err.startswith("error: ")
        return
    assert code == 0, captured.err
    if case["quirk"] and expected.get("status") != "ok" and folder.name in BETTER:
        assert sorted(finish) == list(range(case["npus"]))
        return
    assert finish == dict(enumerate(zip(expected["finish"], expected["exposed"], strict=True)))

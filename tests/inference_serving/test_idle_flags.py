"""Flags without effect are noted in one line each, and change nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusters import cluster_file, instance
from moe_clusters import moe_instance

from inference_serving.cli import main

ROUTING = "note: --expert-routing-policy RAND has no effect: no instance serves a mixture of experts\n"
GROUPS = (
    "note: --layer-group-overhead has no effect: {} scheduling never cuts an iteration into layer groups\n"
)


def run(folder: Path, capsys, *flags: str, sections=None) -> tuple[str, str]:
    """CSV and stderr of a run of three requests."""
    out = folder / "out.csv"
    file = cluster_file(folder, sections or [instance(folder)])
    dataset = Path(__file__).parents[2] / "dataset" / "example_trace.jsonl"
    arguments = ["--cluster-config", file, "--dataset", dataset, "--num-req", "3", "--output", out, *flags]
    assert main([str(one) for one in arguments]) == 0
    return out.read_text(), capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (("--expert-routing-policy", "FAST"), ""),
        (("--expert-routing-policy", "RAND"), ROUTING),
        (("--layer-group-overhead", "auto"), ""),
        (("--layer-group-overhead", "90000"), GROUPS.format("fcfs")),
        (("--layer-group-overhead", "off", "--scheduling-policy", "priority"), GROUPS.format("priority")),
        (("--layer-group-overhead", "90000", "--scheduling-policy", "srpt"), ""),
    ],
)
def test_a_flag_that_changes_nothing_is_noted(tmp_path, capsys, flags, note):
    plain, _ = run(tmp_path, capsys, *flags[2:])
    csv, stderr = run(tmp_path, capsys, *flags)
    assert (csv, stderr) == (plain, note)


def test_one_mixture_of_experts_is_enough(tmp_path, capsys):
    sections = [instance(tmp_path), moe_instance(tmp_path)]
    assert run(tmp_path, capsys, "--expert-routing-policy", "RAND", sections=sections)[1] == ""

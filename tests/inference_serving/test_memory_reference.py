"""Figure 7 of LLMServingSim 2.0, where the reference data is at hand: memory and prefix hits of A6000 servers.

One vLLM instance with prefix caching (SD+PC), and two that share a pool of LMCache in host memory (MD+PC+PS).
REFERENCE_DIR names the folder (default: shared/reference beside the repository).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_serving.cli import main

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference")
FIGURE_7 = REFERENCE / "real_systems/a6000_figure_7"
WORKLOAD = REFERENCE / "datasets/sharegpt_pulse_req50_n6_delay15_pc.jsonl"
pytestmark = pytest.mark.skipif(not FIGURE_7.exists(), reason="no reference data")

Table = dict[str, NDArray[np.float64]]


def table(file: Path) -> Table:
    names = file.read_text().splitlines()[0].split("\t")
    columns = np.loadtxt(file, delimiter="\t", skiprows=1).T
    return dict(zip(names, columns, strict=True))


def simulated(folder: Path, name: str, *flags: str) -> Table:
    series = folder / "series.tsv"
    common = [
        "--dataset",
        str(WORKLOAD),
        "--num-req",
        "300",
        "--enable-prefix-caching",
        "--log-interval",
        "1",
    ]
    config = FIGURE_7 / f"{name}_config.json"
    assert main(["--cluster-config", str(config), *common, *flags, "--memory-series", str(series)]) == 0
    return table(series)


def difference(real: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample by sample; who is done first keeps its last state."""
    length = max(len(real), len(ours))
    left, right = (np.concatenate([one, np.full(length - len(one), one[-1])]) for one in (real, ours))
    return right - left


def test_one_instance_with_prefix_caching(tmp_path):
    real, ours = table(FIGURE_7 / "SD+PC.tsv"), simulated(tmp_path, "SD+PC")
    hits = difference(real["prefix_hit_pct"], ours["instance0_prefix_hit_pct"])
    memory = difference(real["gpu_mem_mb"], ours["instance0_npu_mem_mb"])
    assert np.abs(hits).mean() < 0.5
    assert abs(hits[-1]) < 0.05
    assert np.abs(memory).mean() < 0.02 * real["gpu_mem_mb"].mean()
    assert abs(memory[-1]) < 0.005 * real["gpu_mem_mb"][-1]


def test_two_instances_that_share_a_pool_in_host_memory(tmp_path):
    ours = simulated(tmp_path, "MD+PC+PS", "--prefix-storage", "CPU", "--enable-prefix-sharing")
    for number in range(2):
        real = table(FIGURE_7 / f"MD+PC+PS_inst{number}.tsv")
        hits = difference(real["prefix_hit_pct"], ours[f"instance{number}_prefix_hit_pct"])
        memory = difference(real["gpu_mem_mb"], ours[f"instance{number}_npu_mem_mb"])
        assert np.abs(hits).mean() < 0.5
        assert abs(hits[-1]) < 0.01
        assert np.abs(memory).mean() < 0.01 * real["gpu_mem_mb"].mean()
    pool = table(FIGURE_7 / "MD+PC+PS_shared_cpu.tsv")
    assert ours["cpu_of_node_0_mem_mb"][-1] == pool["shared_cpu_mem_mb"][-1]
    hits = difference(pool["shared_cpu_prefix_hit_pct"], ours["cpu_of_node_0_prefix_hit_pct"])
    assert np.abs(hits).mean() < 0.5
    assert abs(hits[-1]) < 0.01
    stored = difference(pool["shared_cpu_mem_mb"], ours["cpu_of_node_0_mem_mb"])
    assert np.abs(stored).mean() < 0.03 * pool["shared_cpu_mem_mb"].mean()

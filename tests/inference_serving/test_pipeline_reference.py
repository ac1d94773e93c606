"""Published clusters with pipeline stages, where the reference data is at hand: they load, run, and lose nothing.

REFERENCE_DIR names the folder (default: shared/reference beside the repository).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from clusters import requests
from run_invariants import Watch, check_ended

from inference_serving.config_builder import load_cluster
from inference_serving.latencies import open_latencies
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference")
PUBLISHED = REFERENCE / "published_configs" / "cluster_config_newer"

pytestmark = pytest.mark.skipif(not PUBLISHED.exists(), reason="reference data is not beside the project")


@pytest.mark.parametrize("name", ["pp", "tp_pp", "moe_pp", "moe_dp_pp", "moe_dp_tp_pp"])
def test_a_published_cluster_serves_skewed_load(name):
    """Every third request is long, so that instances and stages have unequal work."""
    config, watch = SimulationConfig(), Watch()
    cluster = load_cluster(PUBLISHED / f"single_node_{name}_instance.json", config)
    work = requests(*[(6000, 4), (30, 20), (300, 1)] * 5, gap_ns=20_000_000)
    simulation = Simulation(cluster, work, config, open_latencies(cluster, config), [watch])
    simulation.run()
    check_ended(simulation, cluster, watch)

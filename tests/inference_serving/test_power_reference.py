"""Figure 6 of LLMServingSim 2.0, where the reference data is at hand: the measured power of an A6000 server.

REFERENCE_DIR names the folder (default: shared/reference beside the repository).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_serving.cli import main
from inference_serving.validation.power import compare_power

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference")
FIGURE_6 = REFERENCE / "real_systems/a6000_figure_6"
WORKLOAD = REFERENCE / "datasets/sharegpt_pulse_req10_n3_delay60.jsonl"
pytestmark = pytest.mark.skipif(not FIGURE_6.exists(), reason="no reference data")


@pytest.mark.parametrize("tp_size", [1, 2])
def test_mean_power_and_energy_are_within_3_percent(tmp_path, tp_size):
    """The measured series has a sample a second; docs/power.md has the errors, which are below 1 %."""
    out = tmp_path / "power.tsv"
    config = FIGURE_6 / f"power_config_tp{tp_size}.json"
    flags = ["--log-interval", "1", "--power-series", str(out)]
    assert main(["--cluster-config", str(config), "--dataset", str(WORKLOAD), *flags]) == 0
    found = compare_power(FIGURE_6 / f"server_power_tp{tp_size}.tsv", out)
    assert found.energy_kj.error == pytest.approx(0, abs=3)
    assert found.mean_w.error == pytest.approx(0, abs=3)

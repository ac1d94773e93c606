"""Real runs, where the reference data is at hand: they can be read, and simulated end to end.

REFERENCE_DIR names the folder (default: shared/reference beside the repository).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from inference_serving.validate import main
from inference_serving.validation.readers import read_run

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[4] / "shared" / "reference")
RTX, FIGURE_5 = REFERENCE / "real_systems/rtxpro6000_llama31_8b", REFERENCE / "real_systems/a6000_figure_5"
WORKLOAD = REFERENCE / "datasets/sharegpt_req300_rate10_llama.jsonl"
pytestmark = pytest.mark.skipif(not RTX.exists(), reason="no reference data")


def test_the_published_bench_is_read_whole():
    run = read_run(RTX)
    assert len(run.requests) == 300
    assert run.left_out == ()
    assert sum(one.output_tokens for one in run.requests) == run.series.generated.sum() == 195_753
    assert sum(one.prompt_tokens for one in run.requests) == run.series.prompt.sum() == 257_239
    assert run.flags[:4] == ("--max-num-seqs", "128", "--max-num-batched-tokens", "2048")
    # most requests wait for part of an iteration before they are queued, which TTFT must count
    assert min(one.ttft_ns for one in run.requests) > 0


@pytest.mark.parametrize(
    ("name", "requests"), [("fcfs512", 200), ("fcfs2048", 200), ("prio512", 200), ("short512", 178)]
)
def test_recorded_runs_agree_with_themselves(name, requests):
    """First token, gaps and latency are recorded apart; the token times have 10 us."""
    run = read_run(REFERENCE / f"vllm_cpu/{name}.reqs.jsonl.gz")
    assert len(run.requests) == requests
    for one in run.requests:
        assert abs(one.ttft_ns + one.itl_ns.sum() - one.latency_ns) < 50_000


@pytest.mark.parametrize(("name", "most"), [("MD", 20), ("PDD", 35)])
def test_figure_5_counts_generated_tokens(tmp_path, name, most):
    """docs/accuracy.md has the errors; here they only must not become much worse."""
    out = tmp_path / "out.json"
    cluster = ["--cluster-config", str(FIGURE_5 / f"{name}_config.json"), "--dataset", str(WORKLOAD)]
    series = str(FIGURE_5 / f"{name}_throughput.tsv")
    assert main([series, "--simulate", *cluster, "--json", str(out)]) == 0
    (found,) = json.loads(out.read_text())["series"]
    assert abs(found["tokens"]["error_percent"]) < 0.2
    assert found["mean_absolute_error_percent"] < most

"""Figure 8: our own errors and times, one scenario at a time, and the original's where its logs are at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.figure import make
from evaluation.figure_8.figure_8 import FIGURE, points_of, table_lines
from evaluation.inputs import ROOT, Inputs
from evaluation.published import TIME
from evaluation.rows import value_in


@pytest.fixture
def short_figure():
    """Two scenarios with ten requests, without a picture; the second takes a real run's settings."""
    dense, *_, of_real_run = FIGURE.scenarios
    scenarios = (replace(dense, name="A SD", workload="example_trace"), of_real_run)
    return replace(FIGURE, scenarios=scenarios, draw=lambda _: [])


def test_a_scenario_of_a_real_run_that_is_not_at_hand_is_skipped(short_figure, tmp_path):
    first, second = make(short_figure, Inputs(output_dir=tmp_path)).outcomes
    assert (first.status, second.status) == ("ok", "skipped")
    assert "requests.jsonl is not at hand" in second.why


def test_simulation_time_is_drawn_but_no_snapshot_has_it(short_figure, tmp_path):
    results = make(short_figure, Inputs(output_dir=tmp_path))
    (ours,) = points_of(results)["this simulator"]
    low, high = ours[TIME]
    assert 0 < low == high <= results.served[0].wall_s + 1e-3  # a log has three digits
    assert not any("time_s" in row.metric for row in results.rows)


def test_numbers_of_the_original_stand_below_ours(short_figure, tmp_path):
    logs = tmp_path / "llmservingsim2_figure_8"
    logs.mkdir()
    (logs / "A_SD.log").write_text(
        "=== Throughput Results ===\nFinished requests: 10\nTotal clocks (ns): 2000000000\n"
        "Total input tokens: 5\nTotal generated tokens: 8\nGeneration throughput (tok/s): 4\n"
        "Mean latency (ms): 7\n=== Instance 0 ===\nRequests: 10\nMean TTFT (ms): 2.5\nMedian TTFT (ms): 2\n"
        "P99 TTFT (ms): 3\nMean TPOT (ms): 1.5\nMedian TPOT (ms): 1\nP99 TPOT (ms): 2\nMean ITL (ms): 1\n"
        "Median ITL (ms): 1\nP99 ITL (ms): 2\n"
    )
    results = make(short_figure, Inputs(ROOT / "dataset", tmp_path, tmp_path))
    ours, theirs = table_lines(results)
    assert ours[0] == "A SD"
    assert float(ours[2]) == pytest.approx(value_in(results.rows, "A SD", "mean_ttft_ms"), abs=0.05)
    assert theirs == ("A SD, LLMServingSim 2.0", "4", "2.5", "1.5", "-")

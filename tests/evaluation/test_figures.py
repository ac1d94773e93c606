"""The figures themselves: fresh results are the snapshots', pictures are written, real systems are close.

REFERENCE_DIR names the folder of measured data (default: shared/reference beside the repository).
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation import compare
from evaluation.figure import make
from evaluation.figure_5 import figure_5
from evaluation.figure_6 import figure_6
from evaluation.figure_7 import figure_7
from evaluation.figure_9 import figure_9
from evaluation.figure_10 import figure_10
from evaluation.figures import FIGURES
from evaluation.inputs import EVALUATION, ROOT, Inputs
from evaluation.memory_errors import HITS, MEMORY
from evaluation.published import ABSOLUTE_ERRORS_PERCENT
from evaluation.real_systems import INTERVALS, Error, error_of
from evaluation.rows import series_in, value_in
from evaluation.summary import lines_of

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference")
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="no reference data")
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


def undrawn(figure, *names):
    """The figure with these scenarios only, and without its picture."""
    kept = tuple(one for one in figure.scenarios if one.name in names) or figure.scenarios
    return replace(figure, scenarios=kept, draw=lambda _: [])


def test_a_fresh_run_equals_its_snapshot(tmp_path):
    for figure in (figure_6.FIGURE, figure_7.FIGURE, figure_9.FIGURE):
        make(undrawn(figure), Inputs(output_dir=tmp_path))
    assert compare.main(["6", "7", "9", "--output-dir", str(tmp_path)]) == 0


def test_energy_of_the_components_is_the_energy(tmp_path):
    rows = make(undrawn(figure_6.FIGURE, "A6000 TP1"), Inputs(output_dir=tmp_path)).rows
    parts = [row.value for row in rows if row.metric.startswith("component_")]
    assert len(parts) == 7
    assert sum(parts) == pytest.approx(value_in(rows, "A6000 TP1", "energy_kj"))


def test_attention_in_memory_saves_energy_and_sub_batches_pay_at_the_peak_only(tmp_path):
    """The order of docs/pim.md, with both decode kernels of the GPU."""
    rows = make(undrawn(figure_10.FIGURE), Inputs(output_dir=tmp_path)).rows
    names = [one.name for one in figure_10.FIGURE.scenarios]
    by_energy = sorted(names, key=lambda name: value_in(rows, name, "energy_per_token_j"))
    assert by_energy == ["PIM", "GPU", "PIM+SBI", "GPU (tables)"]
    by_throughput = sorted(names, key=lambda name: -value_in(rows, name, "mean_throughput_tok_s"))
    assert by_throughput == ["PIM", "GPU", "PIM+SBI", "GPU (tables)"]
    peaks = {name: series_in(rows, name, "throughput_tok_s")[1].max() for name in names}
    assert max(peaks, key=peaks.get) == "PIM+SBI"
    whole, halves = (value_in(rows, name, "component_pim_energy_kj") for name in ("PIM", "PIM+SBI"))
    assert halves == pytest.approx(whole, rel=1e-6)  # the same attention, whenever it runs


@needs_matplotlib
@pytest.mark.parametrize("figure", FIGURES, ids=lambda one: one.name)
def test_a_picture_is_drawn_of_whatever_has_not_failed(tmp_path, figure):
    """Forty requests, which have token ids, instead of all; the last scenario fails."""
    short = [replace(one, workload="conversations") for one in figure.scenarios]
    failing = replace(short[0], name=f"{short[0].name.split(' ')[0]} fails", config=Path("gone.json"))
    results = make(replace(figure, scenarios=(*short[:2], failing)), Inputs(output_dir=tmp_path))
    assert results.outcomes[-1].status == "failed"
    for kind in ("pdf", "png"):
        assert (tmp_path / figure.name / f"{figure.name}.{kind}").stat().st_size > 10_000


@needs_reference
@pytest.mark.parametrize("name", ["A6000 MD", "A6000 PDD", "A6000 SM"])
def test_figure_5_is_close_to_the_real_system(tmp_path, name):
    """SD+PC is not (docs/reproduce.md)."""
    inputs = Inputs(REFERENCE / "datasets", REFERENCE / "real_systems", tmp_path)
    errors = make(undrawn(figure_5.FIGURE, name), inputs).errors
    assert abs(error_of(errors, name, "throughput").percent) < 2.5
    assert error_of(errors, name, INTERVALS).percent < 8


@needs_reference
def test_figure_7_is_close_to_the_real_system(tmp_path):
    inputs = Inputs(REFERENCE / "datasets", REFERENCE / "real_systems", tmp_path)
    results = make(undrawn(figure_7.FIGURE), inputs)
    for one in results.served:
        assert error_of(results.errors, one.scenario.name, MEMORY).percent < 3
        assert error_of(results.errors, one.scenario.name, HITS).percent < 3
    places = {error.metric.split(":")[0] for error in results.errors if ":" in error.metric}
    assert places == {"instance0", "instance1", "cpu_of_node_0"}
    assert len(results.served) == 2


def test_a_run_compared_with_itself_has_no_errors(tmp_path):
    """A real run with the times of its requests, here the simulation's own, gives TTFT, TPOT and ITL too."""
    figure, real = undrawn(figure_9.FIGURE), tmp_path / "tpu-v6e-1_figure_9" / "SD_requests.jsonl"
    (served,) = make(figure, Inputs(output_dir=tmp_path)).served
    real.parent.mkdir()
    real.write_bytes(served.files.csv.read_bytes())
    errors = make(figure, Inputs(ROOT / "dataset", tmp_path, tmp_path)).errors
    assert {one.percent for one in errors} == {0.0}
    assert {one.metric for one in errors} == {
        "throughput (tok/s)",
        "mean TTFT (ms)",
        "mean TPOT (ms)",
        "mean ITL (ms)",
        "mean latency (ms)",
        INTERVALS,
    }
    written = figure.errors_file(tmp_path).read_text()
    assert written.startswith("scenario\tmetric\treal\tsimulated\terror_percent\n")
    assert "TPU-v6e-1 SD\tmean TTFT (ms)\t" in written


def test_the_page_has_every_scenario_and_the_published_errors():
    error = Error("H100 MD", "throughput (tok/s)", -0.04, 100.0, 99.96)
    lines = {line[0]: line[1:] for line in lines_of(["H100 MD", "A6000 MD"], [error])}
    assert set(lines) == {"A6000 MD", *ABSOLUTE_ERRORS_PERCENT}
    assert lines["H100 MD"] == ("+0.0 %", *["-"] * 8, "1.6 %", "6.5 %", "1.6 %")
    assert set(lines["A6000 MD"]) == {"-"}


def test_every_figure_has_its_command_page_and_configs():
    for figure in FIGURES:
        folder = EVALUATION / figure.name
        assert f"evaluation.{figure.name}.{figure.name}" in (EVALUATION / f"{figure.name}.sh").read_text()
        assert (folder / "README.md").is_file()
        assert all(one.config.is_file() or one.waits_for for one in figure.scenarios)

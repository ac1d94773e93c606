"""Fresh results against snapshots: what differs is noticed, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.compare import differences, main
from evaluation.figures import FIGURES
from evaluation.inputs import EVALUATION
from evaluation.rows import Row, read_rows, write_rows

ARTIFACTS = EVALUATION / "artifacts"


@pytest.fixture
def fresh_results(tmp_path):
    """A folder with results that are equal to the snapshots."""
    for figure in FIGURES:
        file = figure.parsed_file(tmp_path)
        file.parent.mkdir(parents=True)
        write_rows(file, read_rows(ARTIFACTS / f"{figure.name}.tsv"))
    return tmp_path


def change(output_dir, figure, metric, factor):
    """Multiply the first number of ``metric`` in fresh results."""
    file = output_dir / figure / "parsed" / f"{figure}.tsv"
    rows = read_rows(file)
    place = next(index for index, row in enumerate(rows) if row.metric == metric)
    rows[place] = replace(rows[place], value=rows[place].value * factor)
    write_rows(file, rows)


def test_equal_results_pass(fresh_results, capsys):
    assert main(["--output-dir", str(fresh_results)]) == 0
    assert "0 differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("figure", "metric", "factor"),
    [
        ("figure_5", "mean_ttft_ms", 1.01),
        ("figure_5", "requests", 1 - 1 / 300),
        ("figure_5", "throughput_tok_s", 2.0),
        ("figure_6", "energy_kj", 0.99),
        ("figure_6", "component_npu_energy_kj", 1.01),
        ("figure_7", "prefix_hit_percent", 1.01),
        ("figure_7", "instance1_npu_mem_mb", 1.1),
        ("figure_8", "mean_throughput_tok_s", 0.99),
        ("figure_9", "mean_tpot_ms", 1.01),
    ],
)
def test_one_changed_number_is_noticed(fresh_results, figure, metric, factor, capsys):
    change(fresh_results, figure, metric, factor)
    assert main([figure.removeprefix("figure_"), "--output-dir", str(fresh_results)]) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.endswith("DIFFERS")]
    assert metric in line
    assert "1 differ" in out


def test_a_number_within_its_tolerance_passes(fresh_results):
    change(fresh_results, "figure_9", "mean_ttft_ms", 1.004)
    assert main(["9", "--output-dir", str(fresh_results)]) == 0


def test_only_the_named_figures_are_compared(fresh_results):
    change(fresh_results, "figure_9", "mean_ttft_ms", 2.0)
    assert main(["5", "figure_6", "--output-dir", str(fresh_results)]) == 0


def test_other_requests_are_named_as_the_reason(fresh_results, capsys):
    change(fresh_results, "figure_5", "prompt_tokens", 0.9)
    assert main(["5", "--output-dir", str(fresh_results)]) == 1
    assert "other requests" in capsys.readouterr().out


def test_what_one_side_does_not_have_differs():
    both, gone, new = Row("A", "x_ms", 1.0), Row("A", "y_ms", 1.0), Row("B", "x_ms", 1.0)
    assert [one.differs for one in differences([both, gone], [both, new])] == [False, True, True]


def test_a_missing_interval_of_a_series_differs():
    series = [Row("A", "x_tok_s", 5.0, "1"), Row("A", "x_tok_s", 6.0, "2")]
    (found,) = differences(series, series[:1])
    assert found.differs


def test_series_are_judged_by_their_highest_number():
    kept = [Row("A", "x_tok_s", 1000.0, "1"), Row("A", "x_tok_s", 1.0, "2")]
    fresh = [kept[0], Row("A", "x_tok_s", 11.0, "2")]
    (found,) = differences(kept, fresh)
    assert found.off_percent == pytest.approx(1)
    assert not found.differs


@pytest.mark.parametrize("argument", ["8.5", "figure_x"])
def test_an_unknown_figure_is_refused(argument, capsys):
    assert main([argument]) == 2
    assert "figure_5" in capsys.readouterr().err


def test_without_fresh_results_it_says_what_to_run(tmp_path, capsys):
    assert main(["5", "--output-dir", str(tmp_path)]) == 2
    assert "figure_5.sh" in capsys.readouterr().err


def test_snapshots_hold_nothing_that_depends_on_the_machine():
    for figure in FIGURES:
        metrics = {row.metric for row in read_rows(ARTIFACTS / f"{figure.name}.tsv")}
        assert not [one for one in metrics if "wall" in one or "simulation_time" in one]


def test_snapshots_agree_on_scenarios_that_several_figures_have():
    """A change of results that updates one figure's snapshot must update the others'."""
    kept = {}
    shared = 0
    for figure in FIGURES:
        for row in read_rows(ARTIFACTS / f"{figure.name}.tsv"):
            shared += row.key in kept
            assert kept.setdefault(row.key, row.value) == row.value, (figure.name, row.key)
    assert shared > 0

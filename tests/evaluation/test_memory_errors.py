"""Memory and hits against a measured series: means of absolute differences, computed by hand."""

from __future__ import annotations

import pytest

from astra_sim.input_error import InputError
from evaluation.memory_errors import HITS, MEMORY, Measured, memory_errors
from evaluation.parser.hit_rate import hit_rate_series_rows
from evaluation.parser.memory import memory_rows
from evaluation.real_systems import error_of, error_text

SIMULATED = """\
time_s\tinstance0_npu_mem_mb\tinstance0_used_mb\tinstance0_prefix_hit_pct\t\
cpu_of_node_0_mem_mb\tcpu_of_node_0_prefix_hit_pct
1\t110\t100\t0\t32\t0
2\t120\t100\t10\t64\t1
"""
REAL = "time_s\tgpu_mem_mb\tprefix_hit_pct\n0\t100\t0\n1\t120\t4\n2\t140\t12\n"
POOL = "time_s\tshared_cpu_mem_mb\tshared_cpu_prefix_hit_pct\n0\t32\t0\n1\t64\t3\n"


@pytest.fixture
def series(tmp_path):
    for name, text in (("ours", SIMULATED), ("real", REAL), ("pool", POOL)):
        (tmp_path / f"{name}.tsv").write_text(text)
    return tmp_path / "ours.tsv"


def test_differences_are_of_samples_and_the_shorter_series_keeps_its_last_state(series, tmp_path):
    """|110 - 100|, |120 - 120| and |120 - 140| of a mean of 120; |0|, |10 - 4| and |10 - 12| points."""
    real = Measured("instance0", tmp_path / "real.tsv")
    pool = Measured("cpu_of_node_0", tmp_path / "pool.tsv", "shared_cpu_mem_mb", "shared_cpu_prefix_hit_pct")
    errors = memory_errors("A", [real], [pool], series)
    memory, hits = error_of(errors, "A", MEMORY), error_of(errors, "A", HITS)
    assert memory.percent == pytest.approx(100 * 30 / 3 / 120)
    assert hits.percent == pytest.approx(8 / 3)
    assert (error_text(memory), error_text(hits)) == ("8.3 %", "2.7 points")
    assert error_text(error_of(errors, "A", "instance0: memory at the end")) == "-14.3 %"
    assert error_text(error_of(errors, "A", f"cpu_of_node_0: {HITS}")) == "1.0 points"


def test_without_measured_series_there_are_no_errors(series):
    assert memory_errors("A", [], [], series) == []


def test_an_instance_that_the_run_did_not_have_is_named(series, tmp_path):
    with pytest.raises(InputError, match="no columns of instance7"):
        memory_errors("A", [Measured("instance7", tmp_path / "real.tsv")], [], series)


def test_parsed_series_have_a_row_a_second_and_the_peak(series):
    found = {(row.metric, row.time_s): row.value for row in [*memory_rows("A", series)]}
    assert found[("instance0_npu_mem_mb", "2")] == 120
    assert found[("peak_instance0_npu_mem_mb", "")] == 120
    assert found[("cpu_of_node_0_mem_mb", "1")] == 32
    assert not any("used" in metric for metric, _ in found)
    hits = {(row.metric, row.time_s): row.value for row in hit_rate_series_rows("A", series)}
    assert hits[("cpu_of_node_0_prefix_hit_pct", "2")] == 1


def test_a_file_that_is_no_memory_series_is_refused(tmp_path):
    (tmp_path / "x.tsv").write_text("time_s\tpower_w\n1\t2\n2\t3\n")
    with pytest.raises(InputError, match="--memory-series"):
        memory_rows("A", tmp_path / "x.tsv")

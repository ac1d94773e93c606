"""Published figures: every line has a source, and what is not known stays empty."""

from __future__ import annotations

from evaluation.published import ABSOLUTE_ERRORS_PERCENT, METRICS, TIME, read_published


def test_every_line_has_a_source_and_a_number():
    lines = read_published()
    assert all(one.source and one.values for one in lines)
    assert all(low <= high for one in lines for low, high in one.values.values())


def test_ranges_and_what_is_not_known(tmp_path):
    columns = "\t".join(["simulator", "scenario", *METRICS.values(), TIME, "source"])
    (tmp_path / "some.tsv").write_text(f"{columns}\nX\tall\t3.9-5.0\t\t2\t\tY\n")
    (line,) = read_published(tmp_path / "some.tsv")
    assert line.values == {"throughput_error_percent": (3.9, 5.0), "tpot_error_percent": (2.0, 2.0)}


def test_errors_of_the_original_are_those_of_its_scenarios():
    assert ABSOLUTE_ERRORS_PERCENT["H100 SM"] == {"throughput": 3.8, "mean TTFT": 10.3, "mean TPOT": 0.5}
    assert len(ABSOLUTE_ERRORS_PERCENT) == 5

"""A simulated power series held against a meter, with numbers by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_serving.validation.power import compare_power, main


def write(file: Path, *rows: tuple[float, float], header: str = "time_s\tpower_w") -> Path:
    file.write_text("".join(f"{line}\n" for line in (header, *(f"{a}\t{b}" for a, b in rows))))
    return file


def test_energy_mean_and_peak_by_hand(tmp_path):
    """A meter with a sample a second, from 0; a simulation of 2.5 s in intervals of a second."""
    meter = write(tmp_path / "meter.tsv", (0, 100), (1, 300), (2, 200))
    series = write(tmp_path / "series.tsv", (1, 120), (2, 280), (2.5, 240))
    found = compare_power(meter, series)
    assert (found.duration_s.real, found.duration_s.simulated) == (3, 2.5)
    assert (found.energy_kj.real, found.energy_kj.simulated) == pytest.approx((0.6, 0.52))
    assert (found.mean_w.real, found.mean_w.simulated) == pytest.approx((200, 208))
    assert found.mean_w.error == pytest.approx(4)
    assert (found.peak_w.real, found.peak_w.simulated) == (300, 280)
    assert found.mean_absolute_error == pytest.approx(100 * (20 + 20) / 2 / 200)  # two whole intervals


def test_intervals_need_not_be_those_of_the_meter(tmp_path):
    meter = write(tmp_path / "meter.tsv", (5, 100), (7, 300))  # from the first sample on
    series = write(tmp_path / "series.tsv", (0.5, 100), (1, 140), (2, 120), (4, 300))
    found = compare_power(meter, series)
    assert (found.energy_kj.real, found.energy_kj.simulated) == pytest.approx((0.8, 0.84))
    assert found.mean_absolute_error == pytest.approx(100 * (20 + 0) / 2 / 200)


def test_the_command_prints_a_table(tmp_path, capsys):
    meter = write(tmp_path / "meter.csv", (0, 100), (1, 300), header="time_s\tpower_w")
    assert main([str(meter), str(write(tmp_path / "series.tsv", (1, 110), (2, 300)))]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "                          measured   simulated     error",
        "duration (s)                  2.00        2.00   +0.00 %",
        "energy (kJ)                   0.40        0.41   +2.50 %",
        "mean power (W)              200.00      205.00   +2.50 %",
        "peak power (W)              300.00      300.00   +0.00 %",
        "mean absolute error                               2.50 %",
    ]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([(0, 1), (1, 2)], "time_s\twatts", "line 1: has no column named power_w"),
        ([(0, 1)], "time_s\tpower_w", "must have at least two rows below its header"),
        ([(0, 1), (1, 2), (3, 1)], "time_s\tpower_w", "time_s: must rise from 0 or more in equal steps"),
        ([(0, 1), (1, "high")], "time_s\tpower_w", "line 3: power_w: 'high': must be a number"),
    ],
)
def test_a_wrong_meter_file_is_refused(tmp_path, capsys, rows, header, message):
    meter = write(tmp_path / "meter.tsv", *rows, header=header)
    series = write(tmp_path / "series.tsv", (1, 110), (2, 300))
    assert main([str(meter), str(series)]) == 2
    assert capsys.readouterr().err == f"error: {meter}: {message}\n"


def test_a_series_must_have_ends_of_intervals(tmp_path, capsys):
    meter = write(tmp_path / "meter.tsv", (0, 1), (1, 2))
    series = write(tmp_path / "series.tsv", (0, 110), (1, 300))
    assert main([str(meter), str(series)]) == 2
    assert capsys.readouterr().err == (
        f"error: {series}: time_s: must rise from above 0; each row is the end of an interval\n"
    )

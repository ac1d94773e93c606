"""``python -m inference_serving.validation.power METER SERIES``: a simulated power series held against a measured one.

METER has a sample per line, equally spaced (.tsv or .csv, columns ``time_s`` and ``power_w``); a sample is
taken for the mean of the interval that begins at its time. SERIES was written with ``--power-series``.
Exit codes: 0 compared, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.validation.errors import Value
from inference_serving.validation.readers.series_table import common_step, read_columns
from inference_serving.validation.run import FloatArray

_COLUMNS = ("time_s", "power_w")


@dataclass(frozen=True)
class PowerComparison:
    """Duration, energy, mean and peak, and the mean absolute error of the meter's intervals.

    ``mean_absolute_error`` is over the intervals that both series have, in % of the meter's mean.
    """

    duration_s: Value
    energy_kj: Value
    mean_w: Value
    peak_w: Value
    mean_absolute_error: float


def compare_power(meter_file: Path, series_file: Path) -> PowerComparison:
    """Read and compare two files; raises InputError naming file, line and column."""
    times_s, meter_w = read_columns(meter_file, _COLUMNS)
    step_s = common_step(meter_file, _COLUMNS[0], times_s)
    ends_s, series_w = read_columns(series_file, _COLUMNS)
    if ends_s[0] <= 0 or np.any(np.diff(ends_s) <= 0):
        raise InputError(
            series_file, _COLUMNS[0], "must rise from above 0; each row is the end of an interval"
        )
    energy_j = np.cumsum(series_w * np.diff(ends_s, prepend=0))
    simulated_w = _resampled(ends_s, energy_j, step_s, len(meter_w))
    both = len(simulated_w)
    error_w = np.abs(simulated_w - meter_w[:both])
    duration = Value(len(meter_w) * step_s, float(ends_s[-1]))
    return PowerComparison(
        duration_s=duration,
        energy_kj=Value(float(meter_w.sum()) * step_s / 1e3, float(energy_j[-1]) / 1e3),
        mean_w=Value(float(meter_w.mean()), float(energy_j[-1]) / duration.simulated),
        peak_w=Value(float(meter_w.max()), float(series_w.max())),
        mean_absolute_error=100 * float(error_w.mean()) / float(meter_w.mean()) if both else 0.0,
    )


def _resampled(ends_s: FloatArray, energy_j: FloatArray, step_s: float, most: int) -> FloatArray:
    """Mean power in whole intervals of ``step_s``, ``most`` of them at most."""
    whole = min(most, int(ends_s[-1] / step_s + 1e-9))
    borders = np.arange(whole + 1) * step_s
    at_borders = np.interp(borders, np.append(0.0, ends_s), np.append(0.0, energy_j))
    power_w: FloatArray = np.diff(at_borders) / step_s
    return power_w


def main(argv: list[str] | None = None) -> int:
    """Print the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m inference_serving.validation.power",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("meter", type=Path, metavar="METER", help="the measured series")
    parser.add_argument("series", type=Path, metavar="SERIES", help="written with --power-series")
    args = parser.parse_args(argv)
    try:
        found = compare_power(args.meter, args.series)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'':<22}{'measured':>12}{'simulated':>12}{'error':>10}")
    for name, value in (
        ("duration (s)", found.duration_s),
        ("energy (kJ)", found.energy_kj),
        ("mean power (W)", found.mean_w),
        ("peak power (W)", found.peak_w),
    ):
        print(f"{name:<22}{value.real:>12.2f}{value.simulated:>12.2f}{_percent(value.error):>10}")
    print(f"{'mean absolute error':<22}{'':>24}{f'{found.mean_absolute_error:.2f} %':>10}")
    return 0


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:+.2f} %"


if __name__ == "__main__":
    raise SystemExit(main())

"""Throughput over time, simulated and real, in one panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.figure import Results
from evaluation.parser.throughput import SERIES
from evaluation.plot_style import looks
from evaluation.real_systems import INTERVALS, error_of, signed
from evaluation.rows import series_in
from inference_serving.validation.readers import read_run
from inference_serving.validation.run import FloatArray
from inference_serving.validation.series import series_of

ALONE = "simulated alone\n(no real series at hand)"
_LOOKS = looks(("simulated", "real"))


def draw_throughput(axes: Any, results: Results, scenario: str, real: Path | None) -> None:
    """Draw one scenario, and the series of the real system in the file ``real`` if there is one."""
    ends_s, simulated = series_in(results.rows, scenario, SERIES)
    series = real_series(real) if real is not None else None
    title = scenario
    if series is not None:
        draw_series(axes, "real", "real system", *series)
        throughput = error_of(results.errors, scenario, "throughput")
        intervals = error_of(results.errors, scenario, INTERVALS)
        if throughput is not None and intervals is not None:
            title += f"\nmean {signed(throughput.percent)}\n1 s intervals {intervals.percent:.1f} %"
    draw_series(axes, "simulated", ALONE if series is None else "simulated", ends_s, simulated)
    axes.set_title(title)
    axes.set_xlim(left=0)
    highest = max(float(values.max(initial=0)) for values in (simulated, series[1] if series else simulated))
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.35 * highest))  # room for the legend; the axis may be shared
    axes.legend(loc="upper right", handlelength=1.0, handletextpad=0.4, borderaxespad=0.2)


def real_series(file: Path) -> tuple[FloatArray, FloatArray] | None:
    """Ends of intervals in s and generated tokens a second of a real run; None if it has no token times."""
    run = read_run(file)
    series = run.series or series_of(run.requests)
    if series is None:
        return None
    return np.arange(1, series.generated.size + 1, dtype=np.float64) * series.step_s, series.generated


def draw_series(axes: Any, kind: str, label: str, ends_s: FloatArray, values: FloatArray) -> None:
    """Draw the means of intervals at their middles; ``kind`` is ``simulated`` or ``real``."""
    look = _LOOKS[kind]
    middles = ends_s - np.diff(ends_s, prepend=0) / 2
    axes.plot(middles, values, color=look.colour, linestyle=look.dash, label=label)

"""Errors of scenarios against real systems, by ``inference_serving.validation``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.inputs import Inputs
from inference_serving.files import write_whole
from inference_serving.validation.comparison import compare_runs
from inference_serving.validation.errors import Value
from inference_serving.validation.power import compare_power
from inference_serving.validation.readers import read_run, read_simulation

_HEADER = "scenario\tmetric\treal\tsimulated\terror_percent"
INTERVALS = "1 s intervals, mean absolute"
"""The one metric that is an error by itself: the mean absolute error of a series, in % of its real mean."""


@dataclass(frozen=True, slots=True)
class Error:
    """One metric of one scenario, in % or, for shares, in ``points``.

    ``real`` and ``simulated`` are None for a mean absolute error, which has no sign.
    """

    scenario: str
    metric: str
    percent: float
    real: float | None = None
    simulated: float | None = None
    unit: str = "%"


def real_requests(inputs: Inputs, stem: str) -> Path | None:
    """A real run with the times of its requests, ``STEM_requests.json`` or ``.jsonl``; None if absent."""
    return inputs.real(f"{stem}_requests.jsonl") or inputs.real(f"{stem}_requests.json")


def throughput_errors(scenario: str, real: Path, csv: Path) -> list[Error]:
    """A real series of generated tokens a second against a simulation."""
    found = compare_runs(read_run(real), read_simulation(csv)).series
    if not found:
        raise InputError(real, "", "has no series of tokens a second")
    return [
        *_errors(scenario, {"throughput (tok/s)": found[0].busy}),
        Error(scenario, INTERVALS, found[0].mean_absolute_error),
    ]


def latency_errors(scenario: str, real: Path, csv: Path) -> list[Error]:
    """A real run's requests against a simulation: throughput, and the means of TTFT, TPOT, ITL and latency."""
    comparison = compare_runs(read_run(real), read_simulation(csv))
    values = {}
    if "generated tokens/s" in comparison.throughput:
        values["throughput (tok/s)"] = comparison.throughput["generated tokens/s"]
    for group in comparison.groups[:1]:
        values |= {f"mean {one.name} (ms)": one.statistics["mean"] for one in group.metrics}
    errors = _errors(scenario, values)
    errors += [Error(scenario, INTERVALS, one.mean_absolute_error) for one in comparison.series[:1]]
    return errors


def power_errors(scenario: str, meter: Path, series: Path) -> list[Error]:
    """A measured power series against a simulated one."""
    found = compare_power(meter, series)
    values = {
        "energy (kJ)": found.energy_kj,
        "mean power (W)": found.mean_w,
        "peak power (W)": found.peak_w,
        "duration (s)": found.duration_s,
    }
    return [*_errors(scenario, values), Error(scenario, INTERVALS, found.mean_absolute_error)]


def _errors(scenario: str, values: dict[str, Value]) -> list[Error]:
    return [
        Error(scenario, name, value.error, value.real, value.simulated)
        for name, value in values.items()
        if value.error is not None
    ]


def error_of(errors: Sequence[Error], scenario: str, metric: str) -> Error | None:
    """The error of one metric; None if it is unknown. ``metric`` may leave out the unit."""
    return next((one for one in errors if one.scenario == scenario and one.metric.startswith(metric)), None)


def signed(percent: float) -> str:
    """An error as text, such as ``+1.5 %``."""
    return f"{round(percent, 1) + 0.0:+.1f} %"  # + 0.0: no -0.0


def error_text(error: Error) -> str:
    """The same of an ``Error``, without a sign where it has none."""
    number = f"{error.percent:.1f} " if error.real is None else signed(error.percent).removesuffix("%")
    return number + error.unit


def print_errors(errors: Sequence[Error]) -> None:
    """A table of errors against the real systems."""
    width = max(50, *(len(f"{one.scenario}: {one.metric}") + 1 for one in errors))
    print(f"  {'against the real system':<{width}}{'real':>10}{'simulated':>11}{'error':>13}")
    for one in errors:
        values = "".join(
            f"{'' if value is None else f'{value:.1f}':>{places}}"
            for value, places in ((one.real, 10), (one.simulated, 11))
        )
        print(f"  {one.scenario + ': ' + one.metric:<{width}}{values}{error_text(one):>13}")
    sys.stdout.flush()


def write_errors(file: Path, errors: Sequence[Error]) -> None:
    """Write them as TSV."""
    lines = [
        f"{one.scenario}\t{one.metric}\t{_cell(one.real)}\t{_cell(one.simulated)}\t{one.percent:.3f}"
        for one in errors
    ]
    write_whole(file, "\n".join([_HEADER, *lines]) + "\n")


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"

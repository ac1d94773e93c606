"""Plots of a comparison: a CDF for each latency, and the throughput series (needs matplotlib)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.validation.comparison import Comparison
from inference_serving.validation.errors import METRICS, samples_ms
from inference_serving.validation.matching import Matching
from inference_serving.validation.series import SeriesComparison


def check_plots(folder: Path) -> None:
    """Raise InputError, before any work is done, if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            folder,
            "--plots",
            "matplotlib is not installed; run ./compile.sh --with report, or leave --plots out",
        )


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Write PNG files into ``folder``; returns them."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if comparison.matching is not None:
        for metric in METRICS:
            figure = _cdf(pyplot, metric, comparison.matching)
            if figure is not None:
                files.append(_save(pyplot, figure, folder / f"cdf_{metric.lower()}.png"))
    for series in comparison.series:
        name = f"throughput_{series.counts.replace(' ', '_')}.png"
        files.append(_save(pyplot, _throughput(pyplot, series), folder / name))
    return files


def _cdf(pyplot: Any, metric: str, matching: Matching) -> Any:
    sides = (("real", matching.real), ("simulated", matching.simulated))
    found = [(name, np.sort(samples_ms(requests, metric))) for name, requests in sides]
    if not all(values.size for _, values in found):
        return None
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, values in found:
        axes.step(values, np.arange(1, values.size + 1) / values.size, where="post", label=name)
    axes.set(xlabel=f"{metric} (ms)", ylabel="share of samples", ylim=(0, 1))
    axes.legend()
    return figure


def _throughput(pyplot: Any, series: SeriesComparison) -> Any:
    figure, axes = pyplot.subplots(figsize=(8, 4))
    times = (np.arange(series.real.size) + 1) * series.step_s
    axes.plot(times, series.real, label="real")
    axes.plot(times, series.simulated, label="simulated")
    axes.set(xlabel="time (s)", ylabel=f"{series.counts} tokens/s", ylim=(0, None))
    axes.legend()
    return figure


def _save(pyplot: Any, figure: Any, file: Path) -> Path:
    temporary = file.with_name(f".{file.name}")
    try:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
        temporary.replace(file)
    finally:
        pyplot.close(figure)
        temporary.unlink(missing_ok=True)
    return file

"""Tokens a second over time: made from requests, and compared interval by interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference_serving.validation.errors import Value
from inference_serving.validation.run import NS_PER_S, FloatArray, Series, ServedRequest

_MOST_SHIFT = 3
_LOADS = (1 / 3, 2 / 3, 1.0)


@dataclass(frozen=True)
class LoadError:
    """Intervals whose real throughput is in one third of its peak: how many, and their means."""

    name: str
    intervals: int
    mean: Value


@dataclass(frozen=True)
class SeriesComparison:
    """Two series of the same tokens, of equal length (padded with 0); tokens a second.

    ``busy`` is the mean of each from the start to its own last token, so its error is one of duration when
    both generate the same tokens. ``mean_error`` and ``mean_absolute_error`` are over all intervals in which
    either is busy, in % of the real mean there. ``best_shift`` is by how many intervals the simulated series
    would have to move (later: positive) to fit best, which tells about the clocks; errors are unshifted but
    for ``shifted_absolute_error``.
    """

    counts: str
    step_s: float
    real: FloatArray
    simulated: FloatArray
    tokens: Value
    busy: Value
    mean_error: float
    mean_absolute_error: float
    best_shift: int
    shifted_absolute_error: float
    by_load: tuple[LoadError, ...]


def series_of(requests: Sequence[ServedRequest], step_s: float = 1.0) -> Series | None:
    """Tokens a second of these requests; None if a request with several tokens has no token times.

    Prompt tokens count when the first token comes out. Where tokens were streamed in chunks, the tokens of
    a request are spread evenly over its chunks.
    """
    if any(one.itl_ns is None and one.output_tokens > 1 for one in requests) or not requests:
        return None
    step_ns = round(step_s * NS_PER_S)
    times, weights = [], []
    for one in requests:
        gaps = one.itl_ns if one.itl_ns is not None else np.empty(0, dtype=np.int64)
        times.append(one.arrival_ns + one.ttft_ns + np.concatenate(([0], np.cumsum(gaps))))
        weights.append(np.full(gaps.size + 1, one.output_tokens / (gaps.size + 1)))
    firsts = np.array([one.arrival_ns + one.ttft_ns for one in requests])
    prompts = np.array([one.prompt_tokens for one in requests], dtype=np.float64)
    generated = _binned(np.concatenate(times), np.concatenate(weights), step_ns)
    return Series(step_s, generated / step_s, _binned(firsts, prompts, step_ns) / step_s)


def _binned(times_ns: np.ndarray, weights: FloatArray, step_ns: int) -> FloatArray:
    """Sum the weights of each interval; a time on a border belongs to the interval that ends there."""
    places = np.maximum(-(-times_ns // step_ns) - 1, 0)
    return np.bincount(places, weights=weights).astype(np.float64)


def compare_series(counts: str, step_s: float, real: FloatArray, simulated: FloatArray) -> SeriesComparison:
    """Compare two series; ``counts`` says which tokens they count."""
    length = max(_end(real), _end(simulated), 1)
    left, right = _fit(real, length), _fit(simulated, length)
    mean = float(left.mean()) or 1.0
    shift, shifted = _best_shift(left, right)
    return SeriesComparison(
        counts=counts,
        step_s=step_s,
        real=left,
        simulated=right,
        tokens=Value(float(left.sum() * step_s), float(right.sum() * step_s)),
        busy=Value(left.sum() / max(_end(real), 1), right.sum() / max(_end(simulated), 1)),
        mean_error=100 * float((right - left).mean()) / mean,
        mean_absolute_error=100 * float(np.abs(right - left).mean()) / mean,
        best_shift=shift,
        shifted_absolute_error=100 * shifted / mean,
        by_load=_by_load(left, right),
    )


def _end(values: FloatArray) -> int:
    """Number of intervals up to the last in which there was anything."""
    busy = np.flatnonzero(values)
    return int(busy[-1]) + 1 if busy.size else 0


def _fit(values: FloatArray, length: int) -> FloatArray:
    return np.concatenate((values[:length], np.zeros(max(length - values.size, 0))))


def _best_shift(real: FloatArray, simulated: FloatArray) -> tuple[int, float]:
    """The shift in intervals with the least mean absolute difference, and that difference."""
    room = np.zeros(_MOST_SHIFT)
    wide, moved = np.concatenate((room, real, room)), np.concatenate((room, simulated, room))
    found = [
        (float(np.abs(np.roll(moved, shift) - wide).sum()) / real.size, abs(shift), shift)
        for shift in range(-_MOST_SHIFT, _MOST_SHIFT + 1)
    ]
    difference, _, shift = min(found)
    return shift, difference


def _by_load(real: FloatArray, simulated: FloatArray) -> tuple[LoadError, ...]:
    peak, low, found = float(real.max()), -1.0, []
    for name, share in zip(("low", "middle", "high"), _LOADS, strict=True):
        inside = (real > low) & (real <= share * peak)
        low = share * peak
        if inside.any():
            found.append(
                LoadError(
                    f"{name} (to {low:.0f} tok/s)",
                    int(inside.sum()),
                    Value(float(real[inside].mean()), float(simulated[inside].mean())),
                )
            )
    return tuple(found)

"""Arrivals at a rate or a load that may change over time.

A process with mean gap 1 is drawn once and then stretched, so that with one seed every rate has the same
gaps in the same order, only longer or shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astra_sim.input_error import InputError
from dataset.generate import NS_PER_S, Ints, Sampler, arrival_times, positive_number, wrong_value

_CHUNK = 4096
_MAX_REQUESTS = 1e8
_LARGEST_NS = 2**62


@dataclass(frozen=True, slots=True)
class Phase:
    """A level (a rate, or a load) that holds for some seconds; None stands for as long as it takes."""

    level: float
    seconds: float | None = None


def arrival_process(text: str) -> Sampler:
    """Parse ``poisson`` or ``gamma:CV``; it draws arrival times in ns of a process with one arrival a second."""
    match text.split(":"):
        case ["poisson"]:
            return arrival_times("poisson:1")
        case ["gamma", cv]:
            positive_number(cv)
            return arrival_times(f"gamma:1:{cv}")
    raise wrong_value(text, "poisson or gamma:CV")


def phases(text: str) -> tuple[Phase, ...]:
    """Parse ``LEVEL``, or ``LEVEL:SECONDS[,LEVEL:SECONDS...]``, where a level may be 0 (nothing arrives)."""
    if ":" not in text:
        return (Phase(positive_number(text)),)
    parsed = tuple(_phase(part, text) for part in text.split(","))
    if not any(phase.level for phase in parsed):
        raise wrong_value(text, "above 0 in one phase at least")
    return parsed


def _phase(part: str, text: str) -> Phase:
    level, colon, seconds = part.partition(":")
    if not colon:
        raise wrong_value(text, "LEVEL, or LEVEL:SECONDS for every phase")
    return Phase(0.0 if level == "0" else positive_number(level), positive_number(seconds))


def steady_arrivals(process: Sampler, rng: np.random.Generator, count: int, rate: float) -> Ints:
    """``count`` arrival times in ns at ``rate`` requests a second; raises InputError beyond 2**62 ns."""
    stretched = np.rint(process(rng, count) / rate)
    if stretched[-1] > _LARGEST_NS:
        raise InputError(
            "", "--rate, --load", "the last request would arrive after 2**62 ns, 146 years; raise the rate"
        )
    arrivals: Ints = stretched.astype(np.int64)
    return arrivals


def phased_arrivals(process: Sampler, rng: np.random.Generator, rates: tuple[Phase, ...]) -> Ints:
    """Arrival times in ns while the rate (requests a second) goes through phases, all of them of a length.

    The time of an arrival is where the integral of the rate reaches its time in the process of rate 1.
    Raises InputError if no request arrives, or more than 100 million would.
    """
    ends_s = np.cumsum([0.0, *(phase.seconds or 0.0 for phase in rates)])
    expected = np.cumsum([0.0, *(phase.level * (phase.seconds or 0.0) for phase in rates)])
    if expected[-1] > _MAX_REQUESTS:
        raise InputError(
            "", "--rate, --load", f"{expected[-1]:.3g} requests would arrive; the limit is {_MAX_REQUESTS:g}"
        )
    drawn = [process(rng, _CHUNK)]
    while drawn[-1][-1] < expected[-1] * NS_PER_S:
        drawn.append(drawn[-1][-1] + process(rng, _CHUNK))
    unit_s = np.concatenate(drawn) / NS_PER_S
    if unit_s[0] >= expected[-1]:
        raise InputError(
            "", "--rate, --load", "no request arrives in this time; raise the rate or lengthen the phases"
        )
    times_s = np.interp(unit_s[unit_s < expected[-1]], expected, ends_s)
    arrivals: Ints = np.rint(times_s * NS_PER_S).astype(np.int64)
    return arrivals

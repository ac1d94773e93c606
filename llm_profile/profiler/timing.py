"""Clocks, and repeated shots: warm up, repeat, take statistics.

The host's clock serves a CPU, events on the stream a CUDA device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean
from typing import Any, Protocol

from llm_profile.profiler.samples import Stats, Times

Stamp = Callable[[str], None]
"""Ends an interval and names it."""

LEAST_SECONDS = 0.1
"""Short points are repeated until they took this long."""
MOST_REPEATS = 50
UNTIMED = ""
"""Name of an interval that is thrown away."""
HIDE_LAUNCHES_CYCLES = 20_000_000
"""A CUDA device spins this long (10 ms) first, so that the host is ahead of it and launches cost no gaps."""
_NS_PER_MS = 1e6


class Clock(Protocol):
    """Times what lies between consecutive stamps."""

    def start(self) -> None:
        """Begin a run: forget earlier stamps and take the first one."""
        ...

    def stamp(self) -> None:
        """End an interval and begin the next."""
        ...

    def intervals_ns(self) -> list[float]:
        """Length of each interval of the run, after waiting for the device."""
        ...


class HostClock:
    """Stamps of a host clock in ns, for devices that compute while the host waits.

    >>> ticks = iter([5, 7, 10])
    >>> clock = HostClock(lambda: next(ticks))
    >>> clock.start(), clock.stamp(), clock.stamp(), clock.intervals_ns()
    (None, None, None, [2, 3])
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._stamps: list[int] = []

    def start(self) -> None:
        """Begin a run."""
        self._stamps = [self._now_ns()]

    def stamp(self) -> None:
        """Note the time."""
        self._stamps.append(self._now_ns())

    def intervals_ns(self) -> list[float]:
        """Differences of the stamps."""
        return [after - before for before, after in zip(self._stamps, self._stamps[1:], strict=False)]


class CudaClock:
    """Events on the current stream; ``cuda`` is the module ``torch.cuda``, or what stands in for it."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._events: list[Any] = []

    def start(self) -> None:
        """Begin a run: the device is made to lag behind the host."""
        self._cuda.synchronize()
        self._cuda._sleep(HIDE_LAUNCHES_CYCLES)
        self._events = []
        self.stamp()

    def stamp(self) -> None:
        """Record an event."""
        event = self._cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def intervals_ns(self) -> list[float]:
        """Device time between the events."""
        self._cuda.synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return [before.elapsed_time(after) * _NS_PER_MS for before, after in pairs]


def timed(run: Callable[[Stamp], object], clock: Clock, repeats: int) -> Times:
    """Statistics over repeated runs; a layer that a run passes several times counts with its mean."""
    run(_nothing)
    shots: dict[str, list[float]] = defaultdict(list)
    done, spent_ns = 0, 0.0
    warm = False
    while done < repeats or (spent_ns < LEAST_SECONDS * 1e9 and done < MOST_REPEATS):
        intervals = _one_run(run, clock)
        if not warm:  # the second run still meets cold instruction caches and lazy set-up
            warm = True
            continue
        for name, ns in intervals.items():
            shots[name].append(fmean(ns))
            spent_ns += sum(ns)
        done += 1
    return {name: Stats.of(ns) for name, ns in shots.items() if name != UNTIMED}


def _one_run(run: Callable[[Stamp], object], clock: Clock) -> dict[str, list[float]]:
    names: list[str] = []

    def stamp(name: str) -> None:
        clock.stamp()
        names.append(name)

    clock.start()
    run(stamp)
    intervals: dict[str, list[float]] = defaultdict(list)
    for name, ns in zip(names, clock.intervals_ns(), strict=True):
        intervals[name].append(ns)
    return intervals


def _nothing(name: str) -> None:
    """A stamp for runs that are not timed."""

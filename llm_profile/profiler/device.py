"""The device that is measured, and its clock: the host's for a CPU, events on the stream for CUDA."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from astra_sim.input_error import InputError

HIDE_LAUNCHES_CYCLES = 20_000_000
"""A CUDA device spins this long (10 ms) first, so that the host is ahead of it and launches cost no gaps."""
_NS_PER_MS = 1e6
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
_MOST_BYTES = 2**31 - 1


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


@dataclass(frozen=True)
class Device:
    """A device of PyTorch, its name and its clock."""

    kind: str
    """``cpu`` or ``cuda``."""
    name: str
    clock: Clock


def open_device(kind: str, threads: int, clock: str) -> Device:
    """The device of this machine; ``clock`` is ``wall``, or ``cpu`` for the time that one thread computes."""
    torch.set_num_threads(threads)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise InputError("", "--device", "cuda: PyTorch finds no CUDA device here; use cpu")
        return Device(kind, torch.cuda.get_device_name(), CudaClock(torch.cuda))
    _keep_freed_memory()
    now_ns = time.thread_time_ns if clock == "cpu" else time.perf_counter_ns
    return Device(kind, _cpu_name(), HostClock(now_ns))


def _keep_freed_memory() -> None:
    """Let glibc give no freed memory back to the system, where it is.

    Otherwise each activation of a megabyte may be mapped anew, whose page faults make a norm four times slower or
    not, as the heap happens to lie. Engines on CPUs preload an allocator that does not (TCMalloc) for this reason.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST_BYTES)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

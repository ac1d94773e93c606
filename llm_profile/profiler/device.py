"""The device that is measured, its name and its clock."""

from __future__ import annotations

import ctypes
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from astra_sim.input_error import InputError
from llm_profile.profiler.timing import Clock, CudaClock, HostClock

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
_MOST_BYTES = 2**31 - 1


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

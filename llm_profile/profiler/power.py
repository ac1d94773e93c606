"""Power of an NVIDIA card while it is profiled, sampled through NVML (package ``nvidia-ml-py``)."""

from __future__ import annotations

import importlib
import threading
import time
from types import TracebackType
from typing import Any

POWER_COLUMNS = "seconds,phase,power_w"
PERIOD_S = 0.1
IDLE_S = 3.0
"""How long the card is watched before anything runs on it."""
_MW_PER_W = 1e3


class NoPowerError(Exception):
    """There is nothing to read the power of; the message says why."""


def open_nvml(module: str = "pynvml", index: int = 0) -> PowerSampler:
    """A sampler of card ``index``; :class:`NoPowerError` without the package, a driver or a card."""
    try:
        nvml = importlib.import_module(module)
    except ImportError:
        raise NoPowerError(
            "the package nvidia-ml-py is not installed (./compile.sh --with profile)"
        ) from None
    try:
        nvml.nvmlInit()
        return PowerSampler(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError as error:
        raise NoPowerError(f"NVML finds no card: {error}") from None


class PowerSampler:
    """A thread that notes power and what is being measured, as long as it is used as a context."""

    def __init__(self, nvml: Any, handle: Any, period_s: float = PERIOD_S, idle_s: float = IDLE_S) -> None:
        self._nvml, self._handle = nvml, handle
        self._period_s, self._idle_s = period_s, idle_s
        self._phase = "idle"
        self._rows: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._begin_s = 0.0

    def enter(self, phase: str) -> None:
        """Samples from now on are of ``phase``."""
        self._phase = phase

    def csv(self) -> str:
        """Samples so far: seconds since the start, phase, watts."""
        return "\n".join([POWER_COLUMNS, *self._rows]) + "\n"

    def __enter__(self) -> PowerSampler:
        self._begin_s = time.monotonic()
        self._thread.start()
        time.sleep(self._idle_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.is_set():
            watts = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / _MW_PER_W
            self._rows.append(f"{time.monotonic() - self._begin_s:.3f},{self._phase},{watts:.1f}")
            self._stop.wait(self._period_s)

"""A recording of what a serving engine decided, iteration by iteration, in the format of the recorded runs.

``ev: add`` is a request that reaches the scheduler, ``ev: it`` an iteration: ``t0`` before scheduling, ``t1``
after it, ``t2`` when the model's output is there, ``t3`` when it has been taken in, ``items`` one
``[request, tokens, computed before, prompt tokens]`` a request. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

TICK_NS = 10_000
_SUFFIX = re.compile(r"-[0-9a-f]{8}$")
_SCHEDULER_STATISTICS = Path("/proc/thread-self/schedstat")


def clock_ns() -> int:
    """The clock of a recording: monotonic, in ticks of 10 us, so that rounding loses nothing that was seen."""
    return time.monotonic_ns() // TICK_NS * TICK_NS


def seconds(ns: int) -> float:
    """A time of :func:`clock_ns` as it is written; ``round(seconds * 1e9)`` gives it back."""
    return round(ns / 1e9, 5)


def run_queue_wait_ns() -> int:
    """How long this thread has waited for a core so far; 0 where the system does not say."""
    try:
        return int(_SCHEDULER_STATISTICS.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class IterationRecorder:
    """Writes the events of one engine to a file, a line each; an iteration's when it is complete."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("w", encoding="utf-8", buffering=1)
        self._event: dict[str, Any] = {}
        self._waited_ns = 0

    def added(self, request_id: str, prompt_tokens: int, priority: int, now_ns: int) -> None:
        """A request has reached the scheduler."""
        event = {"ev": "add", "t": seconds(now_ns), "id": _name(request_id), "p": prompt_tokens}
        self._write(event | {"prio": priority})

    def begun(self, start_ns: int) -> None:
        """Scheduling begins."""
        self._waited_ns = run_queue_wait_ns()
        self._event = {"ev": "it", "t0": seconds(start_ns)}

    def scheduled(self, items: list[tuple[str, int, int, int]], policy_ns: int, **counts: int) -> None:
        """The next iteration is decided; ``policy_ns`` of that was the policy's, ``counts`` are queue lengths."""
        named = [[_name(request_id), *numbers] for request_id, *numbers in items]
        self._event |= {"t1": seconds(clock_ns()), "items": named, "pol": round(policy_ns / 1e9, 6), **counts}

    def computed(self, now_ns: int) -> None:
        """The model's output is there."""
        self._event["t2"] = seconds(now_ns)

    def ended(self) -> None:
        """The output has been taken in: write the iteration, unless it was empty."""
        waited_ns = run_queue_wait_ns() - self._waited_ns
        if self._event.get("items"):
            self._write(self._event | {"t3": seconds(clock_ns()), "rq": round(waited_ns / 1e9, 5)})
        self._event = {}

    def _write(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps(event, separators=(",", ":")) + "\n")


def _name(request_id: str) -> str:
    """The caller's name of a request: without the suffix by which the engine makes it unique."""
    return _SUFFIX.sub("", request_id)

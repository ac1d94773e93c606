"""What a run shows while it goes: a line every log interval, and on a terminal a progress bar."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from astra_sim.lazy import lazy_module
from inference_serving.instance import Instance
from inference_serving.request import Batch
from inference_serving.scheduler import IterationOutcome
from inference_serving.trace import Trace

if TYPE_CHECKING:
    from rich import console, progress
else:
    console, progress = lazy_module("rich.console"), lazy_module("rich.progress")

_BAR_EVERY = 256


class IntervalLog:
    """Prints throughput, running requests and KV use once per interval of simulated time.

    The line of an interval is printed at the first iteration that ends after it; intervals in which
    nothing ended are left out. ``power_w`` tells the mean power of the interval that ends at a time; what it
    reads must see an iteration before this log does.
    """

    def __init__(
        self,
        instances: Mapping[int, Instance],
        interval_ns: int,
        stream: TextIO,
        power_w: Callable[[int], float] | None = None,
    ) -> None:
        self._instances = instances
        self._power_w = power_w
        self._interval_ns = interval_ns
        self._stream = stream
        self._digits = max(2, math.ceil(9 - math.log10(interval_ns)))
        self._interval_end_ns = interval_ns
        self._prompt_tokens = 0
        self._generated_tokens = 0

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """Nothing to show."""

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """Count the iteration; print the line of an interval that has ended."""
        if now_ns > self._interval_end_ns:
            self._print_line()
            self._interval_end_ns = -(-now_ns // self._interval_ns) * self._interval_ns
        if batch.layer_group.is_last:
            self._prompt_tokens += batch.prompt_tokens
        self._generated_tokens += outcome.generated_tokens

    def finish(self) -> None:
        """Print the line of the last interval."""
        self._print_line()

    def _print_line(self) -> None:
        if not self._prompt_tokens and not self._generated_tokens:
            return
        seconds = self._interval_ns / 1e9
        instances = list(self._instances.values())
        used = sum(instance.kv_cache.used_blocks for instance in instances)
        capacity = sum(instance.kv_cache.capacity_blocks for instance in instances)
        running = sum(len(instance.scheduler.running) for instance in instances)
        waiting = sum(len(instance.scheduler.waiting) for instance in instances)
        found = [one.kv_cache.statistics for one in instances if one.kv_cache.statistics is not None]
        queried, hits = (
            sum(getattr(one, name) for one in found) for name in ("queried_tokens", "hit_tokens")
        )
        prefix = f", prefix hits: {100 * hits / max(queried, 1):.1f} %" if found else ""
        pools = [one.tiers.statistics for one in instances if one.tiers is not None and one.tiers.pool]
        if pools:
            stored = sum(one.hit_tokens for one in pools)
            prefix += f", storage hits: {100 * stored / max(queried, 1):.1f} %"
        power = f", power: {self._power_w(self._interval_end_ns):.1f} W" if self._power_w else ""
        print(
            f"[{self._interval_end_ns / 1e9:.{self._digits}f}s] "
            f"prompt throughput: {self._prompt_tokens / seconds:.1f} tok/s, "
            f"generation throughput: {self._generated_tokens / seconds:.1f} tok/s, "
            f"running: {running} reqs, waiting: {waiting} reqs, KV cache: {100 * used / capacity:.1f} %"
            f"{prefix}{power}",
            file=self._stream,
            flush=True,
        )
        self._prompt_tokens = self._generated_tokens = 0


class ProgressBar:
    """A bar on stderr: requests done, simulated time, iterations a second; silent where there is no terminal."""

    def __init__(self, total_requests: int) -> None:
        self._iterations = 0
        self._finished = 0
        self._progress: progress.Progress | None = None
        if not sys.stderr.isatty():
            return
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[facts]}"),
            progress.TimeElapsedColumn(),
            console=console.Console(file=sys.stderr),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("simulating", total=total_requests, facts="")

    @property
    def shown(self) -> bool:
        """Whether there is a terminal, so that the bar has to see the run."""
        return self._progress is not None

    def __enter__(self) -> ProgressBar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """Nothing to show."""

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """Move the bar now and then."""
        if self._progress is None:
            return
        self._iterations += 1
        self._finished += len(outcome.finished)
        if self._iterations % _BAR_EVERY:
            return
        elapsed = self._progress.tasks[0].elapsed or 1e-9
        facts = f"{self._finished} requests, {now_ns / 1e9:.1f} s simulated, {self._iterations / elapsed:.0f} it/s"
        self._progress.update(self._task, completed=self._finished, facts=facts)

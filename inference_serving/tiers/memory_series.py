"""NPU memory, prefix hits and the second tier over simulated time, as a table: ``--memory-series``."""

from __future__ import annotations

from collections.abc import Mapping

from inference_serving.instance import Instance
from inference_serving.kv_cache import PrefixStatistics
from inference_serving.request import Batch
from inference_serving.scheduler import IterationOutcome
from inference_serving.tiers.report import pools_of
from inference_serving.trace import Trace

_MIB = 1 << 20


class MemorySeries:
    """Observes a run; has a row for each interval, with the state at its end.

    Of every instance: ``npu_mem_mb``, MiB on each NPU of weights and of KV blocks that are in use or have content
    that can be found again; ``used_mb``, the same without the latter; ``prefix_hit_pct``, percent of the tokens looked
    up so far that the NPU's cache had. Of every pool of the second tier: ``mem_mb`` and ``prefix_hit_pct``, percent
    of the same tokens that it had beyond the NPU's cache.
    """

    def __init__(self, instances: Mapping[int, Instance], interval_ns: int) -> None:
        self._instances = instances
        self._interval_ns = interval_ns
        self._end_ns = interval_ns
        self._rows: list[tuple[float, ...]] = []
        self._pools = pools_of(instances)
        self._state = self._look()

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """Blocks have been taken."""
        self._state = self._look()

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """Write the rows of intervals that have ended; blocks have been given back."""
        while now_ns > self._end_ns:
            self._rows.append((self._end_ns / 1e9, *self._state))
            self._end_ns += self._interval_ns
        self._state = self._look()

    def text(self) -> str:
        """The table, tab-separated, with the state at the end of the run as its last row."""
        names = ["time_s"]
        for instance_id in self._instances:
            names += [f"instance{instance_id}_{name}" for name in ("npu_mem_mb", "used_mb", "prefix_hit_pct")]
        for pool in self._pools:
            name = pool.name.replace(" ", "_")
            names += [f"{name}_mem_mb", f"{name}_prefix_hit_pct"]
        rows = [*self._rows, (self._end_ns / 1e9, *self._state)]
        lines = ["\t".join(names), *("\t".join(f"{value:.9g}" for value in row) for row in rows)]
        return "\n".join(lines) + "\n"

    def _look(self) -> tuple[float, ...]:
        state: list[float] = []
        for instance in self._instances.values():
            plan, cache = instance.spec.memory, instance.kv_cache
            blocks = (cache.occupied_blocks, cache.used_blocks)
            state += [(plan.weight_bytes + plan.kv_bytes_per_block * count) / _MIB for count in blocks]
            state.append(_percent(cache.statistics))
        for pool in self._pools:
            state += [pool.used_bytes / _MIB, _percent(pool.statistics)]
        return tuple(state)


def _percent(statistics: PrefixStatistics | None) -> float:
    return 100 * statistics.hit_ratio if statistics is not None else 0.0

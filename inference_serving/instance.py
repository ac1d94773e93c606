"""One serving instance at run time: its scheduler, its traces, and what it has in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inference_serving.async_scheduler import AsyncScheduler
from inference_serving.cluster import InstanceSpec, Role
from inference_serving.kv_cache import KvCache
from inference_serving.request import Batch, Request
from inference_serving.scheduler import Scheduler
from inference_serving.trace_generator import TraceGenerator
from llm_profile.latency import LatencyModel


@dataclass(slots=True)
class Formed:
    """A batch that has been formed and not yet submitted; the host has prepared it by ``ready_ns``."""

    batch: Batch
    outgoing: dict[int, list[tuple[Request, int]]]
    ready_ns: int


@dataclass(slots=True)
class InFlight:
    """The iteration that an instance is running."""

    batch: Batch
    ticket: int


class Instance:
    """A serving instance; the event loop tells it when to start and when an iteration has ended."""

    def __init__(
        self,
        spec: InstanceSpec,
        latency: LatencyModel,
        may_admit: Callable[[Request], bool] | None = None,
    ) -> None:
        self.spec = spec
        self.instance_id = spec.instance_id
        self.latency = latency
        self.kv_cache = KvCache(spec.memory.kv_blocks, spec.scheduler.block_size)
        make = AsyncScheduler if spec.scheduler.async_scheduling else Scheduler
        self.scheduler = make(
            spec.scheduler,
            self.kv_cache,
            hands_over=spec.role is Role.PREFILL,
            may_admit=may_admit,
        )
        self.traces = TraceGenerator(spec, latency)
        self.in_flight: InFlight | None = None
        self.ahead: Formed | None = None
        self.host_free_ns = 0
        self.iterations = 0
        self._unfinished = 0

    @property
    def unfinished_requests(self) -> int:
        """Requests that were sent here and have not left."""
        return self._unfinished

    def expect(self) -> None:
        """Count a request that is on its way here."""
        self._unfinished += 1

    def forget(self, count: int) -> None:
        """Count requests that have left."""
        self._unfinished -= count

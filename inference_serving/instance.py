"""One serving instance at run time: its scheduler, its traces, and what it has in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from astra_sim.lazy import lazy_module
from inference_serving.cluster import InstanceSpec, Role
from inference_serving.gate_function import ExpertRouting
from inference_serving.kv_cache import KvCache
from inference_serving.policies import make_prefill_policy, policy_names
from inference_serving.policies.forecasting import Forecaster
from inference_serving.policies.options import PolicyOptions
from inference_serving.prefill_costs import PrefillCosts
from inference_serving.request import Batch, Request
from inference_serving.routing_target import QueuedPrefill
from inference_serving.scheduler import Scheduler
from inference_serving.slowdown import REFERENCE_CHUNK_TOKENS
from inference_serving.trace_generator import NO_MOVES, TraceGenerator
from inference_serving.trace_shape import KvMoveKind

if TYPE_CHECKING:
    from inference_serving import async_scheduler, hol_scheduler, prefill_backlog, prefix_cache
    from inference_serving.kv_tiers import KvTiers
else:
    async_scheduler = lazy_module("inference_serving.async_scheduler")
    hol_scheduler = lazy_module("inference_serving.hol_scheduler")
    prefill_backlog = lazy_module("inference_serving.prefill_backlog")
    prefix_cache = lazy_module("inference_serving.prefix_cache")


class Formed(NamedTuple):
    """A batch that has been formed and not yet submitted; the host has prepared it by ``ready_ns``."""

    batch: Batch
    outgoing: dict[int, list[tuple[Request, int]]]
    moves: Mapping[KvMoveKind, int]
    ready_ns: int
    requests: Sequence[Request]
    """Whose the rows of the batch are."""


class InFlight(NamedTuple):
    """The iteration that an instance is running; it began at ``start_ns``, its step overhead included."""

    batch: Batch
    ticket: int
    start_ns: int
    requests: Sequence[Request]
    """Whose the rows of the batch are; some may have ended since, if the batch was formed ahead."""


class Admission(Protocol):
    """Whether a request may start at a prefill instance, as far as its decode instance is concerned."""

    def may_admit(self, request: Request) -> bool:
        """Reserve what the request needs, once; False if there is no room now."""
        ...

    def would_admit(self, request: Request) -> bool:
        """Whether :meth:`may_admit` would say yes now."""
        ...


def make_scheduler(
    spec: InstanceSpec, kv_cache: KvCache, costs: PrefillCosts, admission: Admission | None
) -> Scheduler:
    """The scheduler that an instance's settings ask for; a decode instance has no prefills to order."""
    settings, hands_over = spec.scheduler, spec.role is Role.PREFILL
    may_admit = None if admission is None else admission.may_admit
    if settings.scheduling_policy in policy_names():
        if settings.async_scheduling:
            return async_scheduler.AsyncScheduler(settings, kv_cache, may_admit=may_admit)
        return Scheduler(settings, kv_cache, hands_over=hands_over, may_admit=may_admit)
    if spec.role is Role.DECODE:
        return Scheduler(replace(settings, scheduling_policy="fcfs"), kv_cache)
    # a chunk that shares its iteration with decodes is not cut: they would have to wait for all of it
    most_groups = spec.model.num_hidden_layers if spec.role is Role.PREFILL else 1
    policy = make_prefill_policy(
        settings.scheduling_policy, dict(settings.policy_args), costs, settings.longest_chunk, most_groups
    )
    would_admit = None if admission is None else admission.would_admit
    return hol_scheduler.HolScheduler(
        settings,
        kv_cache,
        policy,
        activations=hol_scheduler.ActivationBlocks.of(spec, kv_cache.block_size),
        hands_over=hands_over,
        may_admit=may_admit,
        would_admit=would_admit,
    )


class Instance:
    """A serving instance; the event loop tells it when to start and when an iteration has ended."""

    def __init__(
        self,
        spec: InstanceSpec,
        costs: PrefillCosts,
        admission: Admission | None = None,
        tiers: KvTiers | None = None,
        routing: ExpertRouting | None = None,
    ) -> None:
        self.spec = spec
        self.instance_id = spec.instance_id
        self.latency = costs.latency
        self.overhead = costs.overhead
        self.costs = costs
        self._forecaster = Forecaster(
            costs, PolicyOptions(chunk=REFERENCE_CHUNK_TOKENS), REFERENCE_CHUNK_TOKENS
        )
        pool = prefix_cache.PrefixKvCache if spec.scheduler.enable_prefix_caching else KvCache
        self.kv_cache: KvCache = pool(spec.memory.kv_blocks, spec.scheduler.block_size)
        self.tiers = self.kv_cache.tiers = tiers
        self.scheduler = make_scheduler(spec, self.kv_cache, costs, admission)
        self.traces = TraceGenerator(spec, costs.latency, routing)
        self.in_flight: InFlight | None = None
        self.ahead: Formed | None = None
        self.host_free_ns = 0
        self.iterations = 0
        self.busy_ns = 0
        self._unfinished = 0

    @cached_property
    def backlog(self) -> prefill_backlog.PrefillBacklog:
        """The prefill work that is waiting here, for routers that look at it."""
        return prefill_backlog.PrefillBacklog(self.scheduler, self.costs)

    @property
    def unfinished_requests(self) -> int:
        """Requests that were sent here and have not left."""
        return self._unfinished

    def cached_tokens(self, request: Request) -> int:
        """Tokens of a request that has not started whose KV is here already; 0 without prefix caching."""
        return self.scheduler.warm_tokens(request)

    def predict_ns(self, request: Request) -> int:
        """Predicted prefill time of a request alone on this instance, with the chunks that it would run in here."""
        return self.backlog.predict_ns(request)

    def prefill_queue(self) -> Sequence[QueuedPrefill]:
        """Prompts that the running iteration will leave unfinished, in no order."""
        return self.backlog.queue(None if self.in_flight is None else self.in_flight.batch)

    def residual_ns(self, now_ns: int) -> int:
        """Predicted prefill time that the running iteration still takes; 0 if none runs."""
        if self.in_flight is None:
            return 0
        length_ns = self.backlog.iteration_ns(self.in_flight.batch)
        return max(length_ns - (now_ns - self.in_flight.start_ns), 0)

    def expect(self) -> None:
        """Count a request that is on its way here."""
        self._unfinished += 1

    def forget(self, count: int) -> None:
        """Count requests that have left."""
        self._unfinished -= count

    def take_moves(self, batch: Batch) -> Mapping[KvMoveKind, int]:
        """Bytes of each NPU that the coming iteration loads from elsewhere and stores there."""
        return NO_MOVES if self.tiers is None else self.tiers.take_moves(batch.layer_group)

    def isolated_prefill_ns(self, prompt_tokens: int, computed: int = 0) -> int:
        """Predicted time of a prompt alone here, of which ``computed`` tokens have KV already.

        The same chunks for every policy, so that slowdowns can be compared.
        """
        return self._forecaster.forecast(computed, prompt_tokens).times_ns[-1]

    def skipped_tokens(self, request: Request) -> int:
        """Prompt tokens whose KV was there when the request came."""
        if self.spec.scheduler.skip_prefill:
            return request.prompt_tokens - 1
        return request.prefix_hit_tokens + request.storage_hit_tokens

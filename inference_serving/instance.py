"""One serving instance at run time: its scheduler, its traces, and what it has in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from inference_serving.async_scheduler import AsyncScheduler
from inference_serving.cluster import InstanceSpec, Role
from inference_serving.gate_function import ExpertRouting
from inference_serving.hol_scheduler import ActivationBlocks, HolScheduler
from inference_serving.kv_cache import KvCache
from inference_serving.pim.kv_channels import KvChannels
from inference_serving.pim.sub_batches import SubBatchTraces
from inference_serving.pim.trace import offloaded_attention
from inference_serving.pipeline.costs import make_forecaster
from inference_serving.pipeline.scheduler import PipelineScheduler
from inference_serving.policies import make_prefill_policy, policy_names
from inference_serving.policies.options import PolicyOptions
from inference_serving.prefill_costs import PrefillCosts
from inference_serving.prefix_cache import PrefixKvCache
from inference_serving.request import Batch, Request
from inference_serving.routers.prefill_backlog import PrefillBacklog
from inference_serving.routers.target import QueuedPrefill
from inference_serving.scheduler import Scheduler
from inference_serving.slowdown import REFERENCE_CHUNK_TOKENS
from inference_serving.speculation.scheduler import SpeculativeScheduler
from inference_serving.tiers.kv_tiers import KvTiers
from inference_serving.trace_generator import NO_MOVES, TraceGenerator
from inference_serving.trace_shape import KvMoveKind

NOBODYS: Final = Batch(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), 1, 0, 0)
"""A dummy batch as its scheduler and whoever watches see it: no request has any of it."""


@dataclass(slots=True)
class Formed:
    """A batch that has been formed and not yet submitted; the host has prepared it by ``ready_ns``.

    ``requests`` are its rows, in running order.
    """

    batch: Batch
    requests: Sequence[Request]
    outgoing: dict[int, list[tuple[Request, int]]]
    moves: Sequence[Mapping[KvMoveKind, int]]
    """Of each pipeline stage."""
    ready_ns: int

    def kv_tokens(self) -> dict[int, int]:
        """Tokens whose KV goes to each decode instance."""
        return {target: sum(tokens for _, tokens in sent) for target, sent in self.outgoing.items()}


@dataclass(slots=True)
class InFlight:
    """The iteration that an instance is running; it began at ``start_ns``, its step overhead included.

    With pipeline stages: the stage of a batch that began last. ``number`` counts the instance's iterations from 0;
    ``requests`` are the rows of the batch, in running order, while the iteration is being submitted.
    """

    batch: Batch
    ticket: int
    start_ns: int
    number: int
    requests: Sequence[Request]


class Admission(Protocol):
    """Whether a request may start at a prefill instance, as far as its decode instance is concerned."""

    def may_admit(self, request: Request) -> bool:
        """Reserve what the request needs, once; False if there is no room now."""
        ...

    def would_admit(self, request: Request) -> bool:
        """Whether :meth:`may_admit` would say yes now."""
        ...


def make_scheduler(
    spec: InstanceSpec,
    kv_cache: KvCache,
    costs: PrefillCosts,
    admission: Admission | None,
    draft_rng: np.random.Generator | None = None,
) -> Scheduler:
    """The scheduler that an instance's settings ask for; a decode instance has no prefills to order.

    ``draft_rng`` decides which drafts are accepted; an instance that does not speculate needs none.
    """
    settings, hands_over = spec.scheduler, spec.role is Role.PREFILL
    may_admit = None if admission is None else admission.may_admit
    if spec.role is Role.DECODE and settings.scheduling_policy not in policy_names():
        settings = replace(settings, scheduling_policy="fcfs")
    if spec.pp_size > 1:
        return PipelineScheduler(settings, kv_cache, spec.pp_size, hands_over=hands_over, may_admit=may_admit)
    if settings.speculation is not None:
        assert draft_rng is not None
        return SpeculativeScheduler(settings, kv_cache, draft_rng, may_admit=may_admit)
    if settings.scheduling_policy in policy_names():
        if settings.async_scheduling:
            return AsyncScheduler(settings, kv_cache, may_admit=may_admit)
        return Scheduler(settings, kv_cache, hands_over=hands_over, may_admit=may_admit)
    # a chunk that shares its iteration with decodes is not cut: they would have to wait for all of it
    most_groups = spec.model.num_hidden_layers if spec.role is Role.PREFILL else 1
    policy = make_prefill_policy(
        settings.scheduling_policy, dict(settings.policy_args), costs, settings.longest_chunk, most_groups
    )
    would_admit = None if admission is None else admission.would_admit
    return HolScheduler(
        settings,
        kv_cache,
        policy,
        activations=ActivationBlocks.of(spec, kv_cache.block_size),
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
        draft_rng: np.random.Generator | None = None,
    ) -> None:
        self.spec = spec
        self.instance_id = spec.instance_id
        self.latency = costs.latency
        self.overhead = costs.overhead
        self.costs = costs
        self._forecaster = make_forecaster(
            costs, PolicyOptions(chunk=REFERENCE_CHUNK_TOKENS), REFERENCE_CHUNK_TOKENS
        )
        pool = PrefixKvCache if spec.scheduler.enable_prefix_caching else KvCache
        self.kv_cache: KvCache = pool(spec.memory.kv_blocks, spec.scheduler.block_size)
        self.tiers = self.kv_cache.tiers = tiers
        self.scheduler = make_scheduler(spec, self.kv_cache, costs, admission, draft_rng)
        speculation = spec.scheduler.speculation
        self._draft_step_ns = 0 if speculation is None else speculation.draft_overhead_ns
        self.backlog = PrefillBacklog(self.scheduler, costs)
        generator = SubBatchTraces if spec.interleaves else TraceGenerator
        self.traces: TraceGenerator = generator(spec, costs.latency, routing)
        offloaded = offloaded_attention(spec)
        self.kv_channels = None if offloaded is None else KvChannels(offloaded.times.groups)
        self.in_flight: InFlight | None = None
        self.ahead: Formed | None = None
        self.host_free_ns = 0
        self.iterations = 0
        self.busy_ns = 0
        self.stage_busy_ns = [0] * spec.pp_size
        """How long each pipeline stage has run; not counted where there is only one."""
        self._forms_ahead = spec.pp_size > 1 or spec.scheduler.async_scheduling
        self._no_moves = (NO_MOVES,) * spec.pp_size
        self._unfinished = 0

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

    def host_ns(self, batch: Batch) -> int:
        """Time before a batch (or a layer group of one) runs: host overhead, and the making of its drafts."""
        host_ns = self.overhead.before(batch.layer_group)
        return host_ns + self._draft_step_ns * batch.draft_steps if self._draft_step_ns else host_ns

    def rows(self) -> Sequence[Request]:
        """Rows of the batch that has just been formed, for as long as it takes until it is submitted."""
        return list(self.scheduler.running) if self._forms_ahead else self.scheduler.running

    def begin(self, formed: Formed | None, ticket: int, now_ns: int, number: int | None = None) -> None:
        """An iteration is with the engine; None: a dummy, of which no request has anything.

        ``number`` is that of the iteration, by default the one after all that have ended.
        """
        number = self.iterations if number is None else number
        batch, rows = (NOBODYS, ()) if formed is None else (formed.batch, formed.requests)
        self.in_flight = InFlight(batch, ticket, now_ns, number, rows)

    def take_moves(self, batch: Batch) -> Sequence[Mapping[KvMoveKind, int]]:
        """Bytes of each NPU of each stage that the coming iteration loads from elsewhere and stores there."""
        return self._no_moves if self.tiers is None else self.tiers.take_moves(batch.layer_group)

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

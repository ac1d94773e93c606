"""Continuous batching with a prefill policy: the head-of-line-aware scheduler.

Decodes get their tokens first, as in :class:`~inference_serving.scheduler.Scheduler`; the rest of the token
budget is the prefill policy's, which may leave a half-done prompt alone and run others. Such a paused prompt
keeps its row, its KV blocks and its progress: pausing costs nothing but the memory that it goes on holding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference_serving.cluster import InstanceSpec
from inference_serving.kv_cache import KvCache
from inference_serving.layer_group import LayerGroup
from inference_serving.memory_model import activation_bytes
from inference_serving.policies.prefill import Chunk, PrefillJob, PrefillPlan, PrefillPolicy, account
from inference_serving.request import Batch, Request, RequestState
from inference_serving.scheduler import IterationOutcome, Refusal, Scheduler
from inference_serving.settings import SchedulerSettings
from llm_profile.layers import kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class ActivationBlocks:
    """Memory for the activations of a chunk that is paused between layer groups, counted in KV blocks."""

    bytes_per_token: int
    block_bytes: int

    @staticmethod
    def of(spec: InstanceSpec, block_size: int) -> ActivationBlocks:
        """What one NPU of an instance holds."""
        layer_bytes = kv_bytes_per_token(spec.model, spec.tp_size, spec.precision.kv_bits)
        kv_bytes = layer_bytes * spec.model.num_hidden_layers
        return ActivationBlocks(activation_bytes(spec.model, spec.precision, 1), block_size * kv_bytes)

    def for_tokens(self, tokens: int) -> int:
        """Blocks that hold the activations of a chunk."""
        return -(-tokens * self.bytes_per_token // self.block_bytes)


class HolScheduler(Scheduler):
    """Forms the batches of one instance under a prefill policy.

    ``would_admit`` says whether ``may_admit`` (see ``Scheduler``) would say yes, without reserving anything.
    A prompt that is paused inside a chunk holds ``activations`` besides its KV.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        kv_cache: KvCache,
        policy: PrefillPolicy,
        *,
        activations: ActivationBlocks,
        hands_over: bool = False,
        may_admit: Callable[[Request], bool] | None = None,
        would_admit: Callable[[Request], bool] | None = None,
    ) -> None:
        super().__init__(
            replace(settings, scheduling_policy="fcfs"), kv_cache, hands_over=hands_over, may_admit=may_admit
        )
        self.prefill_policy = policy
        self._activations = activations
        self._held_activations: dict[int, int] = {}
        self._must_go_on: Chunk | None = None
        self._would_admit = would_admit
        self._unfinished: dict[int, tuple[PrefillJob, Request]] = {}
        self._started: dict[int, Request] = {}
        self._step: PrefillPlan | None = None
        self._now_ns = 0

    def enqueue(self, request: Request) -> None:
        """Take in a request that has arrived at this instance."""
        super().enqueue(request)
        self._now_ns = max(self._now_ns, request.arrival_ns)
        self._register(request)

    def schedule(self, now_ns: int) -> Batch | None:
        """Form the next batch, or return None if no request can run a token now."""
        self._now_ns = now_ns
        batch = super().schedule(now_ns)
        if batch is None or self._step is None:
            return batch
        chunk = self._step.chunks[0]
        if chunk.groups == 1:
            return batch
        if not chunk.completes:
            self._table.grant[:] = 0  # its tokens have KV after the last layer group only
        return replace(batch, layer_group=LayerGroup(chunk.group, chunk.groups))

    def complete(self, end_ns: int) -> IterationOutcome:
        """Account for the iteration that ``schedule`` formed and that ended at ``end_ns``."""
        step, self._step = self._step, None
        if step is not None:
            self._now_ns = end_ns
            account(step)
            self._hold_activations(step.chunks[0])
            self.prefill_policy.on_progress(step, self.planned_ns, end_ns)
            for chunk in step.chunks:
                if not chunk.job.remaining_tokens:
                    self._forget(chunk.job)
        return super().complete(end_ns)

    @property
    def unfinished_jobs(self) -> Iterator[PrefillJob]:
        """The prompts that are not complete; what the running iteration does for them is not counted yet."""
        return (job for job, _ in self._unfinished.values())

    @property
    def running_plan(self) -> PrefillPlan | None:
        """The prefill part of the running iteration."""
        return self._step

    def _register(self, request: Request) -> None:
        match = self.kv_cache.match(request)
        job = PrefillJob(
            request_id=request.request_id,
            arrival_ns=request.arrival_ns,
            order=request.enqueue_order,
            prompt_tokens=request.num_tokens,
            computed=request.computed + match.tokens,
            priority=request.priority,
            client=request.request_class,
        )
        self._unfinished[request.request_id] = (job, request)
        if request.job is None:
            request.job = job
        self.prefill_policy.on_arrival(job, self._now_ns)

    def _hold_activations(self, chunk: Chunk) -> None:
        """Take memory for a chunk's activations after its first layer group; give it back after the last.

        A chunk that finds none cannot be paused: its next layer group runs next.
        """
        request_id = chunk.job.request_id
        if chunk.completes:
            self.kv_cache.give_back(self._held_activations.pop(request_id, 0))
        elif request_id not in self._held_activations:
            blocks = self._activations.for_tokens(chunk.tokens)
            if blocks + self._owed_blocks() > self.kv_cache.free_blocks:
                self._must_go_on = replace(chunk, group=chunk.group + 1)
                return
            self.kv_cache.take(blocks)
            self._held_activations[request_id] = blocks

    def _forget(self, job: PrefillJob) -> None:
        self.kv_cache.give_back(self._held_activations.pop(job.request_id, 0))
        self.prefill_policy.on_finish(job, self._now_ns)
        del self._unfinished[job.request_id]
        self._started.pop(job.request_id, None)

    def _plan(self) -> int:
        """Grant tokens to decodes, then to what the policy chooses; return the token budget left."""
        self._admitted.clear()
        self._table.grant[:] = 0
        budget, preempted_before = self.settings.token_budget, self.preemptions
        if not self.settings.prioritize_prefill:
            budget = self._grant(self._decoding(), budget)
        chunks: list[Chunk] = []
        if self.preemptions == preempted_before and budget and self._unfinished:
            plan = self._next_plan(budget)
            chunks = [ran for chunk in plan.chunks if (ran := self._run(chunk))] if plan else []
            budget -= sum(chunk.tokens for chunk in chunks)
        if self.settings.prioritize_prefill:
            budget = self._grant(self._decoding(), budget)
        # who gave its blocks up to a later grant runs nothing after all
        kept = tuple(chunk for chunk in chunks if chunk.job.request_id in self._started)
        self._step = PrefillPlan(kept, plan.predicted_ns) if kept and plan else None
        self._note_paused_blocks(kept)
        return self.settings.token_budget - int(np.add.reduce(self._table.grant))

    def _next_plan(self, budget: int) -> PrefillPlan | None:
        chunk, self._must_go_on = self._must_go_on, None
        if chunk is not None and chunk.job.request_id in self._started:
            return PrefillPlan((chunk,), chunk.planned_ns)
        return self.prefill_policy.plan(budget, self._now_ns, self._can_start)

    def _decoding(self) -> NDArray[np.bool_] | None:
        """Which rows are not in prefill; None if none is."""
        if not self._started:
            return None
        rows = np.ones(len(self._table), dtype=np.bool_)
        for request in self._started.values():
            rows[self._table.requests.index(request)] = False
        return rows

    def _can_start(self, job: PrefillJob) -> bool:
        """Whether a waiting prompt may start: it must fit beside all that started ones will still need."""
        request = self._unfinished[job.request_id][1]
        if self.settings.max_num_seqs and len(self._table) >= self.settings.max_num_seqs:
            return bool(self._refuse(request, Refusal.MEMORY))
        match = self.kv_cache.match(request)
        tokens = request.num_tokens
        owed = 0
        if self.settings.reserve_full_isl:
            owed = self._owed_blocks()
        else:
            computed = request.computed + match.tokens
            tokens = min(tokens, computed + self.settings.token_budget)
        held = request.blocks + match.blocks - match.unused
        if self.kv_cache.blocks_for(tokens) - held + owed > self.kv_cache.free_blocks:
            return bool(self._refuse(request, Refusal.MEMORY))
        if self._would_admit is not None and not self._would_admit(request):
            return bool(self._refuse(request, Refusal.DECODE))
        return True

    def _owed_blocks(self) -> int:
        """KV blocks that the started prompts will still take."""
        table = self._table
        owed = 0
        for request in self._started.values():
            held = int(table.blocks[table.requests.index(request)])
            owed += max(self.kv_cache.blocks_for(request.num_tokens) - held, 0)
        return owed

    def _run(self, chunk: Chunk) -> Chunk | None:
        """Give a chunk its tokens and blocks; None if memory does not allow it after all."""
        job, request = self._unfinished[chunk.job.request_id]
        if request.state is RequestState.WAITING:
            if not self._can_start(job) or not (self._may_admit is None or self._may_admit(request)):
                return None
            chunk = self._with_warm_start(chunk, request)
            self.waiting.remove(request)
            self._start(request, chunk.tokens)
            self._started[request.request_id] = request
            job.started = True
            return chunk
        self._grant_with_preemption([request], chunk.tokens)
        if request.state is not RequestState.RUNNING:
            return None
        self.kv_cache.remember(request, job.computed + chunk.tokens)
        return chunk

    def _with_warm_start(self, chunk: Chunk, request: Request) -> Chunk:
        """The chunk from where the cached prefix ends now, which may not be where it ended when the job came."""
        job = chunk.job
        computed = request.computed + self.kv_cache.match(request).tokens
        if computed == job.computed:
            return chunk
        job.computed = computed
        self.prefill_policy.on_warm_change(job, self._now_ns)
        tokens = min(chunk.tokens, job.remaining_tokens)
        if not chunk.completes:  # its next layer groups are those of as many tokens
            job.held_tokens = tokens
        return replace(chunk, tokens=tokens)

    def _preempt(self, row: int) -> int:
        """Send a running request back to the waiting queue without its KV; return the tokens it had."""
        request = self._table.requests[row]
        if request.request_id in self._unfinished:
            self._forget(self._unfinished[request.request_id][0])
        tokens = super()._preempt(row)
        self._register(request)
        return tokens

    def _note_paused_blocks(self, running: tuple[Chunk, ...]) -> None:
        """Keep the peak of the KV blocks that started prompts hold without running."""
        if len(self._started) > len(running):
            ran = {chunk.job.request_id for chunk in running}
            table = self._table
            paused = sum(
                int(table.blocks[table.requests.index(request)])
                for request_id, request in self._started.items()
                if request_id not in ran
            )
            self.peak_paused_blocks = max(self.peak_paused_blocks, paused)

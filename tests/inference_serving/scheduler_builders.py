"""A scheduler with a clock and named requests, for tests that look at batches one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from inference_serving.async_scheduler import AsyncScheduler
from inference_serving.kv_cache import KvCache
from inference_serving.pipeline.scheduler import PipelineScheduler
from inference_serving.request import Batch, Request
from inference_serving.scheduler import IterationOutcome, Scheduler
from inference_serving.settings import SchedulerSettings
from inference_serving.speculation.drafts import Speculation
from inference_serving.speculation.scheduler import SpeculativeScheduler

Item = tuple[str, int, int]
ITERATION_NS = 100


class Bench:
    """One instance whose iterations follow each other, ``ITERATION_NS`` long each, the first from 0.

    A batch is a list of (request, tokens that it runs, tokens computed before), in running order.
    Blocks have 4 tokens and there are plenty, unless said otherwise.
    """

    def __init__(
        self, kv_blocks: int = 100_000, *, hands_over=False, may_admit=None, **settings: Any
    ) -> None:
        self.settings = SchedulerSettings(**{"block_size": 4, **settings})
        self.kv_cache = KvCache(kv_blocks, self.settings.block_size)
        self.scheduler = Scheduler(self.settings, self.kv_cache, hands_over=hands_over, may_admit=may_admit)
        self.now_ns = 0
        self.batch: Batch | None = None
        self.outcome = IterationOutcome([], [], 0)
        self._names: dict[int, str] = {}

    def add(self, name: str, prompt: int, output: int = 10, **fields: Any) -> Request:
        """A request arrives now."""
        fields = {"arrival_ns": self.now_ns, **fields}
        request = Request(len(self._names), prompt_tokens=prompt, output_tokens=output, **fields)
        self._names[request.request_id] = name
        self.scheduler.enqueue(request)
        return request

    def land(self, name: str, prompt: int, output: int = 10, **fields: Any) -> Request:
        """A request arrives from a prefill instance: first token out, KV of the prompt in its blocks here."""
        blocks = self.kv_cache.blocks_for(prompt)
        self.kv_cache.take(blocks)
        return self.add(name, prompt, output, computed=prompt, generated=1, blocks=blocks, **fields)

    def step(self) -> list[Item]:
        """Form a batch and run it; an empty list if no request can run a token."""
        self.batch = self.scheduler.schedule(self.now_ns)
        if self.batch is None:
            return []
        grants, context = self.batch.grants.tolist(), self.batch.context.tolist()
        rows = zip(self.running(), grants, context, strict=True)
        self.now_ns += ITERATION_NS
        self.outcome = self.scheduler.complete(self.now_ns)
        return [(name, tokens, before) for name, tokens, before in rows if tokens]

    def steps(self, count: int) -> list[list[Item]]:
        """The next ``count`` batches."""
        return [self.step() for _ in range(count)]

    def run(self, most: int = 1000) -> list[list[Item]]:
        """All batches until nothing can run any more; fails if that takes more than ``most``."""
        batches = []
        while batch := self.step():
            batches.append(batch)
            assert len(batches) <= most, f"still not done after {most} iterations"
        return batches

    def running(self) -> list[str]:
        """The running requests, in running order."""
        return [self._names[request.request_id] for request in self.scheduler.running]

    def waiting(self) -> list[str]:
        """The waiting requests, in the policy's order."""
        return [self._names[request.request_id] for request in self.scheduler.waiting]


class AheadBench(Bench):
    """A bench whose scheduler works one iteration ahead; a step runs the batch that was formed before it.

    A request that is added between two steps arrives as the iteration of the first one ends, and may join
    the batch of the step after the next.
    """

    def __init__(self, kv_blocks: int = 100_000, **settings: Any) -> None:
        super().__init__(kv_blocks, **settings)
        self.scheduler: AsyncScheduler = AsyncScheduler(self.settings, self.kv_cache)
        self.ahead: list[Item] = []

    def step(self) -> list[Item]:
        """Run the batch formed ahead, or one formed now if there is none, while the next one is formed."""
        batch = self.ahead or self.form()
        if batch:
            self.ahead = self.form()
            self.now_ns += ITERATION_NS
            self.outcome = self.scheduler.complete(self.now_ns)
        return batch

    def form(self) -> list[Item]:
        """Form the next batch."""
        self.batch = self.scheduler.schedule(self.now_ns)
        if self.batch is None:
            return []
        rows = zip(self.running(), self.batch.grants.tolist(), self.batch.context.tolist(), strict=True)
        return [(name, tokens, before) for name, tokens, before in rows if tokens]


class SpeculativeBench(Bench):
    """A bench whose scheduler gives every request ``drafts`` draft tokens; a grant counts them, too."""

    def __init__(
        self, drafts: int, acceptance_rate: float, kv_blocks: int = 100_000, seed: int = 0, **settings: Any
    ) -> None:
        super().__init__(kv_blocks, speculation=Speculation(drafts, acceptance_rate), **settings)
        rng = np.random.default_rng(seed)
        self.scheduler: SpeculativeScheduler = SpeculativeScheduler(self.settings, self.kv_cache, rng)


class PipelineBench(Bench):
    """A bench whose batches come back in order, up to ``stages`` of them on their way; time passes by hand."""

    def __init__(self, stages: int, kv_blocks: int = 100_000, *, hands_over=False, **settings: Any) -> None:
        super().__init__(kv_blocks, **settings)
        self.scheduler: PipelineScheduler = PipelineScheduler(
            self.settings, self.kv_cache, stages, hands_over=hands_over
        )

    def form(self) -> list[Item]:
        """Form the next batch; an empty list if nothing can run."""
        self.batch = self.scheduler.schedule(self.now_ns)
        if self.batch is None:
            return []
        rows = zip(self.running(), self.batch.grants.tolist(), self.batch.context.tolist(), strict=True)
        return [(name, tokens, before) for name, tokens, before in rows if tokens]

    def back(self) -> IterationOutcome:
        """The oldest batch comes back, ``ITERATION_NS`` later."""
        self.now_ns += ITERATION_NS
        self.outcome = self.scheduler.complete(self.now_ns)
        return self.outcome

"""Prefill policies that serve jobs in some order: a subclass says only what the order is.

Two ways to fill an iteration. *Greedy*: take jobs in order until the token budget is used up, as a serving
engine does. *Density batch*: if the first job does not finish within the budget, run one chunk of it alone;
else add the next job that does while its slowdown gained per time lent is at least the batch's.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from inference_serving.policies.forecasting import Forecaster
from inference_serving.policies.options import PolicyOptions
from inference_serving.policies.prefill import CanStart, Chunk, CostModel, PrefillJob, PrefillPlan

PrefillKey = tuple[float, ...]
_MOST_REFUSALS = 16
_MOST_MISFITS = 32
_TIE = 1 + 1e-12
"""Equal densities stay equal under rounding."""


class OrderedPolicy:
    """Serves jobs by ascending :meth:`key`, ties by arrival; implements ``PrefillPolicy``.

    A key is asked for again after a job's own progress; a class whose keys change otherwise sets ``timed``.
    """

    options_type: ClassVar[type[PolicyOptions]] = PolicyOptions
    timed: ClassVar[bool] = False

    def __init__(self, costs: CostModel, options: PolicyOptions, token_budget: int) -> None:
        self.options = options
        self.forecaster = Forecaster(costs, options, token_budget)
        self._costs = costs
        self._queue: list[tuple[PrefillKey, int, PrefillJob]] = []
        self._place: dict[int, tuple[PrefillKey, int, PrefillJob]] = {}
        self._last_plan: tuple[PrefillJob, ...] = ()

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Where the job stands in line, the smallest first; a subclass says so, or overrides :meth:`in_order`."""
        raise NotImplementedError

    def on_arrival(self, job: PrefillJob, now_ns: int) -> None:
        """Predict the job's times and put it in line."""
        self.forecaster.predict(job)
        self._insert(job, now_ns)

    def on_warm_change(self, job: PrefillJob, now_ns: int) -> None:
        """Predict the job anew, from what is cached now; what it was promised stays."""
        promised_ns = job.isolated_ns
        self._remove(job)
        self.forecaster.predict(job)
        job.isolated_ns = promised_ns
        self._insert(job, now_ns)

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """Forget the job."""
        self._remove(job)

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        """Move the jobs that ran to where they now belong, and count the pauses of those that gave way."""
        ran = tuple(chunk.job for chunk in plan.chunks)
        for job in self._last_plan:
            if job.order in self._place and job not in ran:
                job.pauses += 1
        self._last_plan = ran
        for job in ran:
            self._remove(job)
            self.forecaster.update(job)
            self._insert(job, end_ns)

    def plan(self, token_budget: int, now_ns: int, can_start: CanStart) -> PrefillPlan | None:
        """The chunks to run next, in order."""
        return self.batch(self.in_order(now_ns), token_budget, can_start)

    def in_order(self, now_ns: int) -> Iterable[PrefillJob]:
        """All unfinished jobs, first things first."""
        if self.timed:
            jobs = [entry[2] for entry in self._place.values()]
            return sorted(jobs, key=lambda job: (self.key(job, now_ns), job.order))
        return (entry[2] for entry in self._queue)

    def batch(self, jobs: Iterable[PrefillJob], token_budget: int, can_start: CanStart) -> PrefillPlan | None:
        """Fill one iteration from ``jobs``, which are in order; None if none of them can run."""
        runnable = runnable_jobs(jobs, can_start)
        head = next(runnable, None)
        if head is None or token_budget == 0:
            return None
        if head.held_groups:
            return self._next_group(head)
        tokens = min(self._quantum(head), token_budget)
        if self.options.density and tokens == head.remaining_tokens:
            return self._density_batch(head, runnable, token_budget)
        if self.options.density or (self.options.groups > 1 and tokens < head.remaining_tokens):
            return self._alone(head, tokens)
        return self._greedy_batch(head, tokens, runnable, token_budget)

    def _quantum(self, job: PrefillJob) -> int:
        assert job.forecast is not None
        if self.options.density or self.options.tau:
            return job.forecast.next_chunk(job.computed)[0]
        return min(self.forecaster.chunk_tokens, job.remaining_tokens)

    def _alone(self, job: PrefillJob, tokens: int) -> PrefillPlan:
        if tokens < job.remaining_tokens and self.options.groups > 1:
            job.held_tokens = tokens
            return self._next_group(job)
        planned_ns = self.forecaster.step_ns(job, tokens)
        return PrefillPlan((Chunk(job, tokens, planned_ns),), planned_ns)

    def _next_group(self, job: PrefillJob) -> PrefillPlan:
        planned_ns = self.forecaster.group_ns(job, job.held_tokens, job.held_groups)
        chunk = Chunk(job, job.held_tokens, planned_ns, job.held_groups, self.options.groups)
        return PrefillPlan((chunk,), planned_ns)

    def _greedy_batch(
        self, head: PrefillJob, tokens: int, others: Iterable[PrefillJob], token_budget: int
    ) -> PrefillPlan:
        chunks = [self._chunk(head, tokens)]
        left = token_budget - tokens
        for job in others if left else ():
            if job.held_groups:
                continue
            tokens = min(self._quantum(job), left)
            if tokens < job.remaining_tokens and self.options.groups > 1:
                continue
            chunks.append(self._chunk(job, tokens))
            left -= tokens
            if left == 0:
                break
        return PrefillPlan(tuple(chunks), self._believed_ns(chunks))

    def _density_batch(
        self, head: PrefillJob, others: Iterable[PrefillJob], token_budget: int
    ) -> PrefillPlan:
        chunks = [self._chunk(head, head.remaining_tokens)]
        weight, total_ns, left = 1 / head.isolated_ns, chunks[0].planned_ns, token_budget - chunks[0].tokens
        misfits = 0
        for job in others:
            if job.held_groups or job.remaining_tokens > left or self._quantum(job) < job.remaining_tokens:
                misfits += 1
                if left == 0 or misfits == _MOST_MISFITS:
                    break
                continue
            chunk = self._chunk(job, job.remaining_tokens)
            with_it_ns = self._believed_ns([*chunks, chunk])
            added_ns = max(with_it_ns - total_ns, 1)
            # a chunk that is dearer in company than alone would break the bound's accounting
            if added_ns * weight > total_ns / job.isolated_ns * _TIE or added_ns > chunk.planned_ns:
                break
            chunks.append(chunk)
            weight, total_ns, left = weight + 1 / job.isolated_ns, with_it_ns, left - chunk.tokens
        return PrefillPlan(tuple(chunks), total_ns)

    def _chunk(self, job: PrefillJob, tokens: int) -> Chunk:
        return Chunk(job, tokens, self.forecaster.step_ns(job, tokens))

    def _believed_ns(self, chunks: Sequence[Chunk]) -> int:
        """Predicted time of a batch; with mispredicted jobs, wrong by their mean factor."""
        if len(chunks) == 1:
            return chunks[0].planned_ns
        ns = self._costs.batch_ns([(chunk.tokens, chunk.job.computed) for chunk in chunks])
        if not self.options.error:
            return ns
        planned = sum(chunk.planned_ns for chunk in chunks)
        return round(ns * planned / sum(chunk.planned_ns / chunk.job.belief for chunk in chunks))

    def _insert(self, job: PrefillJob, now_ns: int) -> None:
        entry = (() if self.timed else self.key(job, now_ns), job.order, job)
        self._place[job.order] = entry
        if not self.timed:
            insort(self._queue, entry)

    def _remove(self, job: PrefillJob) -> None:
        entry = self._place.pop(job.order)
        if not self.timed:
            del self._queue[bisect_left(self._queue, entry)]


def runnable_jobs(jobs: Iterable[PrefillJob], can_start: CanStart) -> Iterator[PrefillJob]:
    """Jobs that have started or may; after many refusals memory is taken to be full for all."""
    refusals = 0
    for job in jobs:
        if job.started or (refusals < _MOST_REFUSALS and can_start(job)):
            yield job
        elif not job.started:
            refusals += 1

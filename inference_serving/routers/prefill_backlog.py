"""The prefill work that an instance has before it, in predicted time; nothing is computed until a router asks."""

from __future__ import annotations

from collections.abc import Sequence

from inference_serving.hol_scheduler import HolScheduler
from inference_serving.pipeline.costs import make_forecaster
from inference_serving.policies.options import PolicyOptions
from inference_serving.policies.ordered import OrderedPolicy
from inference_serving.policies.prefill import PrefillJob
from inference_serving.prefill_costs import PrefillCosts
from inference_serving.request import Batch, Request
from inference_serving.routers.target import QueuedPrefill
from inference_serving.scheduler import Scheduler


class PrefillBacklog:
    """Sees one instance's scheduler, of either kind.

    Under a prefill policy the times are the policy's own. Under an engine policy (fcfs, priority) they are
    predicted here, once for each length, with chunks as long as the token budget. Decodes in the same
    iterations are left out of all times.
    """

    def __init__(self, scheduler: Scheduler, costs: PrefillCosts) -> None:
        self._scheduler = scheduler
        self._costs = costs
        policy = scheduler.prefill_policy if isinstance(scheduler, HolScheduler) else None
        self._forecaster = (
            policy.forecaster
            if isinstance(policy, OrderedPolicy)
            else make_forecaster(costs, PolicyOptions(), scheduler.settings.longest_chunk)
        )

    def predict_ns(self, request: Request) -> int:
        """Predicted time of a request's prompt alone, after what is cached of it here now."""
        warm = self._scheduler.warm_tokens(request)
        job = PrefillJob(request.request_id, request.arrival_ns, 0, request.prompt_tokens, warm)
        self._forecaster.predict(job)
        return job.isolated_ns

    def queue(self, running: Batch | None) -> Sequence[QueuedPrefill]:
        """Prompts that the ``running`` iteration will leave unfinished."""
        if isinstance(self._scheduler, HolScheduler):
            return self._jobs(self._scheduler)
        grants = None if running is None else running.grants
        return [self._prompt(*prompt) for prompt in self._scheduler.unfinished_prompts(grants)]

    def iteration_ns(self, running: Batch) -> int:
        """Predicted time of an iteration's prefill part."""
        if isinstance(self._scheduler, HolScheduler):
            plan = self._scheduler.running_plan
            return 0 if plan is None else plan.predicted_ns
        chunks = [part.tolist() for part in running.prefill_chunks()]
        return self._costs.batch_ns(list(zip(*chunks, strict=True))) if chunks[0] else 0

    def _prompt(self, tokens: int, warm: int, computed: int) -> QueuedPrefill:
        forecast = self._forecaster.forecast(min(warm, computed), tokens)
        isolated_ns = forecast.times_ns[-1]
        return QueuedPrefill(max(isolated_ns, 1), isolated_ns - forecast.elapsed_ns(computed))

    @staticmethod
    def _jobs(scheduler: HolScheduler) -> Sequence[QueuedPrefill]:
        plan = scheduler.running_plan
        running = {} if plan is None else {chunk.job.order: chunk for chunk in plan.chunks}
        jobs = []
        for job in scheduler.unfinished_jobs:
            remaining_ns = job.remaining_ns
            if job.order in running:
                chunk = running[job.order]
                if chunk.completes and chunk.tokens == job.remaining_tokens:
                    continue
                remaining_ns = max(remaining_ns - chunk.planned_ns, 0)
            jobs.append(QueuedPrefill(max(job.isolated_ns, 1), remaining_ns))
        return jobs

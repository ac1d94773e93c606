"""Predicted chunks and times of prompts: what orders, budgets and slowdowns are computed from."""

from __future__ import annotations

import numpy as np

from inference_serving.policies.options import PolicyOptions
from inference_serving.policies.prefill import CostModel, Forecast, PrefillJob

NS_PER_S = 1e9


class Forecaster:
    """Predicts how one instance would run a prompt alone.

    ``token_budget`` is the most tokens of one iteration. Equal prompts are predicted once.
    """

    def __init__(self, costs: CostModel, options: PolicyOptions, token_budget: int) -> None:
        self._costs = costs
        self._options = options
        self._tau_ns = options.tau * NS_PER_S
        self.chunk_tokens = min(options.chunk or token_budget, token_budget)
        self._known: dict[tuple[int, int], Forecast] = {}

    def predict(self, job: PrefillJob) -> None:
        """Set the job's forecast, ``isolated_ns`` and ``remaining_ns`` from its warm state."""
        job.forecast = self.forecast(job.computed, job.prompt_tokens)
        job.belief = self._belief(job.request_id)
        job.isolated_ns = max(round(job.forecast.times_ns[-1] * job.belief), 1)
        job.remaining_ns = job.isolated_ns

    def forecast(self, computed: int, prompt_tokens: int) -> Forecast:
        """The chunks and times of a prompt of which ``computed`` tokens have KV."""
        case = (computed, prompt_tokens)
        if case not in self._known:
            self._known[case] = self._forecast(*case)
        return self._known[case]

    def update(self, job: PrefillJob) -> None:
        """Set ``remaining_ns`` after progress; the groups that a held chunk has run count."""
        assert job.forecast is not None
        left_ns = job.forecast.times_ns[-1] - job.forecast.elapsed_ns(job.computed)
        for group in range(job.held_groups):
            left_ns -= self._costs.group_ns(job.held_tokens, job.computed, group, self._options.groups)
        job.remaining_ns = max(round(left_ns * job.belief), 0)

    def step_ns(self, job: PrefillJob, tokens: int) -> int:
        """Predicted time of an iteration that runs ``tokens`` of this job alone, in one piece."""
        assert job.forecast is not None
        planned, planned_ns = job.forecast.next_chunk(job.computed)
        # inside a predicted chunk its straight line misses the fixed cost of an iteration
        begins = job.forecast.is_boundary(job.computed)
        whole = begins and planned == tokens and (self._options.groups == 1 or job.remaining_tokens == tokens)
        ns = planned_ns if whole else self._costs.batch_ns([(tokens, job.computed)])
        return round(ns * job.belief)

    def group_ns(self, job: PrefillJob, tokens: int, group: int) -> int:
        """Predicted time of one layer group of a chunk of this job."""
        return round(self._costs.group_ns(tokens, job.computed, group, self._options.groups) * job.belief)

    def _forecast(self, computed: int, prompt_tokens: int) -> Forecast:
        tokens, times_ns = [computed], [0]
        while tokens[-1] < prompt_tokens:
            chunk, ns = self._chunk(tokens[-1], prompt_tokens - tokens[-1])
            tokens.append(tokens[-1] + chunk)
            times_ns.append(times_ns[-1] + ns)
        return Forecast(tuple(tokens), tuple(times_ns))

    def _chunk(self, context: int, remaining: int) -> tuple[int, int]:
        """Tokens and ns of the next chunk: the quantum, halved where it would take longer than ``tau``."""
        tokens = min(self.chunk_tokens, remaining)
        ns = self._costs.batch_ns([(tokens, context)])
        if self._tau_ns and ns > self._tau_ns and tokens > 1:
            tokens = min(max(self.chunk_tokens // 2, 1), remaining)
            ns = self._costs.batch_ns([(tokens, context)])
        if tokens < remaining and self._options.groups > 1:
            count = self._options.groups
            ns = sum(self._costs.group_ns(tokens, context, group, count) for group in range(count))
        return tokens, ns

    def _belief(self, request_id: int) -> float:
        if not self._options.error:
            return 1.0
        rng = np.random.default_rng([self._options.seed, request_id])
        return float(np.exp(rng.normal(0.0, self._options.error)))

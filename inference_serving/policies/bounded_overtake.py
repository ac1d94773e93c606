"""Bounded Overtake: short prompts pass long ones, within a budget that each overtaken prompt grants.

Order and batches are those that lower the mean slowdown (SPTP order, Hyytia et al., SIGMETRICS 2012, and
density batches); a guard refuses a batch that would overdraw anybody's budget of being overtaken,
``beta * isolated time + sigma * time since arrival``. With exact predictions every prompt's time in the
system is then at most (its time under FCFS + beta * isolated time) / (1 - sigma), under any load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from inference_serving.policies.forecasting import NS_PER_S
from inference_serving.policies.options import PolicyOptions, check_range
from inference_serving.policies.ordered import OrderedPolicy, PrefillKey
from inference_serving.policies.overtake_ledger import Budget, OvertakeLedger
from inference_serving.policies.prefill import CanStart, Chunk, CostModel, PrefillJob, PrefillPlan

_FEW = 8
"""Of a queue, one in so many jobs are sorted faster than they are found in the line of all."""


@dataclass(frozen=True, slots=True)
class BoundedOvertakeOptions(PolicyOptions):
    """Options of ``bounded-overtake``.

    Attributes:
        beta: Share of its own isolated time that a prompt may be overtaken by.
        sigma: Share of its time in the system that a prompt may be overtaken by, besides; below 1.
        small: A batch whose prompts all take at most this many seconds alone may use up a budget; any other
            leaves half of ``beta`` in hand.
        reserve: Share of ``beta`` that such other batches leave in hand.
        caution: The bound shall hold while no prediction is wrong by more than a factor of
            exp(caution * assumed): budgets are shrunk, and costs grown, by it.
        assumed: Sigma of the (lognormal) prediction error that ``caution`` guards against.
        learn: Whether the time that a prompt's own chunks took, once some have run, corrects the isolated time
            that its budget is a share of; from then on that is not shrunk by ``caution``.
    """

    chunk: int = 2048
    tau: float = 0.2
    groups: int = 4
    density: bool = True
    beta: float = 0.5
    sigma: float = 0.3
    small: float = 0.2
    reserve: float = 0.5
    caution: float = 0.0
    assumed: float = 0.0
    learn: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        PolicyOptions.__post_init__(self)
        for name, most in (("beta", 1e9), ("sigma", 0.999), ("small", 1e6), ("reserve", 1.0)):
            check_range(name, getattr(self, name), 0, most)
        check_range("caution", self.caution, 0, 10)
        check_range("assumed", self.assumed, 0, 3)


class BoundedOvertake(OrderedPolicy):
    """SPTP order and density batches under a guard."""

    options_type = BoundedOvertakeOptions
    options: BoundedOvertakeOptions

    def __init__(self, costs: CostModel, options: BoundedOvertakeOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        self._margin = math.exp(options.caution * options.assumed)
        self._ledger = OvertakeLedger(Budget(options.beta, options.sigma, self._margin))
        # time in the system grows while a batch runs, and sigma of that pays for a part of its being late
        self._cost_margin = max(self._margin * (1 - options.sigma), 1.0)
        self._virtual_fcfs_ns = 0
        self._ran_ns: dict[int, tuple[int, int]] = {}

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Isolated time times remaining time (SPTP)."""
        return (job.isolated_ns * job.remaining_ns,)

    def on_arrival(self, job: PrefillJob, now_ns: int) -> None:
        """Queue the job, and promise it a time (with density batches only)."""
        super().on_arrival(job, now_ns)
        self._virtual_fcfs_ns = max(self._virtual_fcfs_ns, job.arrival_ns) + job.isolated_ns
        fcfs_ns = self._virtual_fcfs_ns - job.arrival_ns
        options = self.options
        if options.density:  # a chunk cut to fill a greedy batch costs more than was predicted of it
            job.bound_ns = round((fcfs_ns + options.beta * job.isolated_ns) / (1 - options.sigma))
        self._ledger.add(job)

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        """Charge those whom the plan has overtaken with the time that it took."""
        self._ledger.charge(plan.chunks, end_ns - start_ns)
        super().on_progress(plan, start_ns, end_ns)
        if self.options.learn and len(plan.chunks) == 1:
            self._learn(plan.chunks[0], end_ns - start_ns)

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """Forget the job; its charge stays on it."""
        super().on_finish(job, now_ns)
        self._ran_ns.pop(job.order, None)
        self._ledger.remove(job)

    def plan(self, token_budget: int, now_ns: int, can_start: CanStart) -> PrefillPlan | None:
        """The best batch that overdraws nobody's budget: without those who arrived after a critical job."""
        plan = self.batch(self.in_order(now_ns), token_budget, can_start)
        while plan is not None and (critical := self._critical(plan, now_ns)) is not None:
            plan = self.batch(self._no_later_than(critical), token_budget, can_start)
        if plan is None:  # memory keeps a critical job from starting: those who hold it must finish
            plan = self.batch((job for job in self.in_order(now_ns) if job.started), token_budget, can_start)
        return plan

    def _learn(self, chunk: Chunk, took_ns: int) -> None:
        """Hold the rest of a prompt to be as wrongly predicted as what has run of it."""
        job = chunk.job
        ran_ns, planned_ns = self._ran_ns.get(job.order, (0, 0))
        ran_ns, planned_ns = ran_ns + took_ns, planned_ns + chunk.planned_ns
        self._ran_ns[job.order] = (ran_ns, planned_ns)
        self._ledger.set_isolated(job, ran_ns + job.remaining_ns * ran_ns / max(planned_ns, 1))

    def _no_later_than(self, position: int) -> Iterable[PrefillJob]:
        """In order, those who arrived no later than the job at a position in order of arrival."""
        if position < len(self._queue) // _FEW:
            entries = sorted(self._place[job.order] for job in self._ledger.up_to(position))
            return (entry[2] for entry in entries)
        latest = self._ledger.job_at(position).order
        return (entry[2] for entry in self._queue if entry[1] <= latest)

    def _critical(self, plan: PrefillPlan, now_ns: int) -> int | None:
        small_ns = self.options.small * NS_PER_S
        small = all(chunk.job.isolated_ns <= small_ns for chunk in plan.chunks)
        reserve = 0.0 if small else self.options.beta * self.options.reserve
        return self._ledger.violator(plan.chunks, plan.predicted_ns * self._cost_margin, now_ns, reserve)

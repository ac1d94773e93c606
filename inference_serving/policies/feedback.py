"""Multi-level feedback: a prompt sinks as it uses time up, and short ones pass it."""

from __future__ import annotations

from dataclasses import dataclass

from inference_serving.policies.forecasting import NS_PER_S
from inference_serving.policies.options import PolicyOptions, check_range
from inference_serving.policies.ordered import OrderedPolicy, PrefillKey
from inference_serving.policies.prefill import CanStart, CostModel, PrefillJob, PrefillPlan


@dataclass(frozen=True, slots=True)
class MlfqOptions(PolicyOptions):
    """Options of ``mlfq``.

    Attributes:
        levels: Number of queues; the last has no quantum.
        quantum: Seconds that a job may run in the first queue.
        growth: Factor from one queue's quantum to the next one's.
        starvation: Seconds without running after which a job goes back to the first queue; 0: never.
    """

    levels: int = 10
    quantum: float = 0.02
    growth: float = 2.0
    starvation: float = 120.0

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        PolicyOptions.__post_init__(self)
        for name, least, most in (
            ("levels", 1, 64),
            ("quantum", 1e-9, 1e6),
            ("growth", 1, 1e3),
            ("starvation", 0, 1e6),
        ):
            check_range(name, getattr(self, name), least, most)


@dataclass(slots=True)
class _Standing:
    """A job's queue, its place there, the time it has run there, and since when it has not run."""

    level: int
    ticket: int
    used_ns: int
    idle_since_ns: int


class SkipJoinMlfq(OrderedPolicy):
    """Skip-join multi-level feedback queue (FastServe; Wu et al., 2023, arXiv:2305.05920).

    A job enters the first queue whose quantum its predicted time fits (FastServe skips to where the first
    iteration fits; in prefill that is the whole job), the last one if none does. Queues are served strictly
    in order, each first come, first served. A job that has used its quantum up, counted in planned time of
    its own chunks, goes to the end of the next queue; one that has not run for ``starvation`` seconds goes to
    the end of the first, with a new quantum there.
    """

    options_type = MlfqOptions
    options: MlfqOptions

    def __init__(self, costs: CostModel, options: MlfqOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        base_ns = options.quantum * NS_PER_S
        self._quanta_ns = [round(base_ns * options.growth**level) for level in range(options.levels - 1)]
        self._standing: dict[int, _Standing] = {}
        self._idle: dict[int, PrefillJob] = {}
        """Jobs by the time at which they last ran, arrived or were promoted, the longest ago first."""
        self._tickets = 0

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Queue, then place in it."""
        standing = self._standing[job.order]
        return (standing.level, standing.ticket)

    def level_of(self, job: PrefillJob) -> int:
        """The queue that an unfinished job is in, the first being 0."""
        return self._standing[job.order].level

    def on_arrival(self, job: PrefillJob, now_ns: int) -> None:
        """Put the job into the queue whose quantum it fits."""
        self.forecaster.predict(job)
        fitting = (level for level, ns in enumerate(self._quanta_ns) if job.isolated_ns <= ns)
        self._enter(job, next(fitting, len(self._quanta_ns)), now_ns)
        self._insert(job, now_ns)

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        """Charge those who ran, and move who has used its quantum up."""
        for chunk in plan.chunks:
            job, standing = chunk.job, self._standing[chunk.job.order]
            standing.used_ns += chunk.planned_ns
            if standing.level < len(self._quanta_ns) and standing.used_ns >= self._quanta_ns[standing.level]:
                self._enter(job, standing.level + 1, end_ns)
            else:
                self._touch(job, end_ns)
        super().on_progress(plan, start_ns, end_ns)

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """Forget the job."""
        super().on_finish(job, now_ns)
        del self._standing[job.order], self._idle[job.order]

    def plan(self, token_budget: int, now_ns: int, can_start: CanStart) -> PrefillPlan | None:
        """The chunks to run next, after those who starve have been promoted."""
        if self.options.starvation:
            self._promote(now_ns)
        return super().plan(token_budget, now_ns, can_start)

    def _enter(self, job: PrefillJob, level: int, now_ns: int) -> None:
        self._tickets += 1
        self._standing[job.order] = _Standing(level, self._tickets, 0, now_ns)
        self._touch(job, now_ns)

    def _touch(self, job: PrefillJob, now_ns: int) -> None:
        self._standing[job.order].idle_since_ns = now_ns
        self._idle.pop(job.order, None)
        self._idle[job.order] = job

    def _promote(self, now_ns: int) -> None:
        limit_ns = now_ns - round(self.options.starvation * NS_PER_S)
        starving: list[PrefillJob] = []
        for order, job in self._idle.items():
            if self._standing[order].idle_since_ns > limit_ns:
                break
            starving.append(job)
        for job in starving:
            if self._standing[job.order].level == 0:  # it cannot go further up
                self._touch(job, now_ns)
                continue
            self._remove(job)
            self._enter(job, 0, now_ns)
            self._insert(job, now_ns)

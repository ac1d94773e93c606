"""Runs of a prefill policy without a simulator: arrivals, predicted and true costs, a memory; every step is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import strategies as st
from overtake_model import Costs, Decision, Model, Rules

from inference_serving.policies.prefill import PrefillJob, PrefillPlan, PrefillPolicy, account


class Arrival(NamedTuple):
    """A prompt that arrives ``gap_ns`` after the one before it, with ``warm`` tokens of its prefix cached."""

    gap_ns: int
    tokens: int
    warm: int = 0


@dataclass
class Outcome:
    """What a run did: jobs by arrival, completions, and ``(decision, planned_ns, start_ns, end_ns)`` of each step."""

    jobs: list[PrefillJob] = field(default_factory=list)
    warm: dict[int, int] = field(default_factory=dict)
    done_ns: dict[int, int] = field(default_factory=dict)
    steps: list[tuple[Decision, list[int], int, int]] = field(default_factory=list)
    idle: list[tuple[int, int]] = field(default_factory=list)

    def sojourn_ns(self, job: PrefillJob) -> int:
        return self.done_ns[job.order] - job.arrival_ns

    def completion_order(self) -> list[int]:
        return sorted(self.done_ns, key=lambda order: (self.done_ns[order], order))


class Memory:
    """Prompt tokens that started, unfinished prompts may have in all; ``shut`` lists spans when nobody may start."""

    def __init__(self, tokens: int, shut: tuple[tuple[int, int], ...] = ()) -> None:
        self.tokens, self.shut = tokens, shut
        self.now_ns = 0
        self.held: dict[int, int] = {}

    def may_start(self, job: PrefillJob) -> bool:
        if any(first <= self.now_ns < last for first, last in self.shut):
            return False
        return sum(self.held.values()) + job.prompt_tokens <= max(self.tokens, job.prompt_tokens)

    def next_change(self) -> int:
        """When a span in which nobody may start ends; after the last, never."""
        return min((last for _, last in self.shut if last > self.now_ns), default=-1)


class Run:
    """One instance under a policy; ``true_costs`` say how long an iteration takes."""

    def __init__(self, policy: PrefillPolicy, true_costs: Costs, token_budget: int, groups: int) -> None:
        self.policy, self.costs, self.token_budget, self.groups = policy, true_costs, token_budget, groups
        self.memory = Memory(10**12)
        self.before_step: list[Callable[[PrefillPlan, int], None]] = []
        self.model: Model | None = None
        self.outcome = Outcome()
        self.now_ns = 0

    def play(self, trace: list[Arrival]) -> Outcome:
        coming, at_ns = [], 0
        for order, arrival in enumerate(trace):
            at_ns += arrival.gap_ns
            coming.append(
                PrefillJob(order, at_ns, order, arrival.warm + arrival.tokens, computed=arrival.warm)
            )
        self.outcome.jobs = list(coming)
        self.outcome.warm = {job.order: job.computed for job in coming}
        while len(self.outcome.done_ns) < len(trace):
            while coming and coming[0].arrival_ns <= self.now_ns:
                self._arrive(coming.pop(0))
            self.memory.now_ns = self.now_ns
            plan = self.policy.plan(self.token_budget, self.now_ns, self.memory.may_start)
            if plan is None:
                self._wait(coming)
            else:
                self._step(plan)
        return self.outcome

    def _arrive(self, job: PrefillJob) -> None:
        self.policy.on_arrival(job, self.now_ns)
        if self.model is not None:
            self.model.arrive(job.order, job.arrival_ns, job.prompt_tokens, job.computed)

    def _wait(self, coming: list[PrefillJob]) -> None:
        changes = [self.memory.next_change(), coming[0].arrival_ns if coming else -1]
        later = min((one for one in changes if one > self.now_ns), default=None)
        assert later is not None, "deadlock: nothing runs and nothing will change"
        self.outcome.idle.append((self.now_ns, later))
        self.now_ns = later

    def _step(self, plan: PrefillPlan) -> None:
        start_ns = self.now_ns
        decision = [(chunk.job.order, chunk.tokens, chunk.group) for chunk in plan.chunks]
        if self.model is not None:
            assert decision == self.model.decide(start_ns), f"step {len(self.outcome.steps)} at {start_ns}"
        for look in self.before_step:
            look(plan, start_ns)
        self.now_ns += self._true_ns(plan)
        planned_ns = [chunk.planned_ns for chunk in plan.chunks]
        self.outcome.steps.append((decision, planned_ns, start_ns, self.now_ns))
        for chunk in plan.chunks:
            chunk.job.started = True
            self.memory.held[chunk.job.order] = chunk.job.prompt_tokens
        account(plan)
        self.policy.on_progress(plan, start_ns, self.now_ns)
        for chunk in plan.chunks:
            if not chunk.job.remaining_tokens:
                self.outcome.done_ns[chunk.job.order] = self.now_ns
                del self.memory.held[chunk.job.order]
                self.policy.on_finish(chunk.job, self.now_ns)
        if self.model is not None:
            self.model.run(decision, start_ns, self.now_ns)

    def _true_ns(self, plan: PrefillPlan) -> int:
        first = plan.chunks[0]
        if first.groups > 1:
            return self.costs.group_ns(first.tokens, first.job.computed, first.group, first.groups)
        whole = [(chunk.tokens, chunk.job.computed) for chunk in plan.chunks]
        if len(whole) == 1 and first.job.remaining_tokens > first.tokens and self.groups > 1:
            raise AssertionError("a chunk that does not finish its prompt runs in groups")
        return self.costs.batch_ns(whole)


# --- traces

SHORT, LONG = st.integers(1, 2048), st.integers(2049, 24_000)
_MS = 1_000_000


def _gaps(count: int, most_ms: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, most_ms * _MS), min_size=count, max_size=count)


@st.composite
def _flood(draw: st.DrawFn) -> list[Arrival]:
    """A long prompt, then shorts faster than they can be served."""
    shorts = draw(st.lists(st.tuples(st.integers(0, 30 * _MS), SHORT), min_size=1, max_size=12))
    return [Arrival(0, draw(LONG)), *(Arrival(*short) for short in shorts)]


@st.composite
def _convoy(draw: st.DrawFn) -> list[Arrival]:
    """Longs one behind the other, shorts behind them."""
    longs = draw(st.lists(LONG, min_size=2, max_size=4))
    shorts = draw(st.lists(st.tuples(st.integers(0, 200 * _MS), SHORT), min_size=1, max_size=8))
    return [*(Arrival(_MS, long) for long in longs), *(Arrival(*short) for short in shorts)]


@st.composite
def _alternating(draw: st.DrawFn) -> list[Arrival]:
    gap, pairs = draw(st.integers(0, 500 * _MS)), draw(st.integers(1, 4))
    return [Arrival(gap, draw(LONG if number % 2 == 0 else SHORT)) for number in range(2 * pairs)]


@st.composite
def _equal(draw: st.DrawFn) -> list[Arrival]:
    count, tokens = draw(st.integers(1, 12)), draw(st.integers(1, 6000))
    return [Arrival(gap, tokens) for gap in draw(_gaps(count, 100))]


@st.composite
def _bursts(draw: st.DrawFn) -> list[Arrival]:
    """Groups of prompts that arrive in the same nanosecond."""
    trace = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = draw(st.lists(st.one_of(SHORT, SHORT, LONG), min_size=1, max_size=5))
        trace += [
            Arrival(draw(st.integers(0, 2000 * _MS)), sizes[0]),
            *(Arrival(0, one) for one in sizes[1:]),
        ]
    return trace


_mixed = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 300 * _MS),
        st.one_of(SHORT, SHORT, LONG),
        st.sampled_from([0, 0, 0, 16, 2000, 30_000]),
    ),
    min_size=1,
    max_size=14,
)
traces = st.one_of(_mixed, _flood(), _convoy(), _alternating(), _equal(), _bursts())
costs = st.builds(
    Costs,
    fixed=st.sampled_from([0, 5_000_000, 40_000_000]),
    token=st.sampled_from([1_000, 33_000]),
    pair=st.sampled_from([0, 2, 20]),
    floor=st.booleans(),
    group_extra=st.sampled_from([0, 100_000, 5_000_000]),
)
rules = st.builds(
    Rules,
    tau=st.sampled_from([0.0, 0.05, 0.2]),
    groups=st.sampled_from([1, 2, 4]),
    beta=st.sampled_from([0.0, 0.1, 0.5, 3.0, 1e9]),
    sigma=st.sampled_from([0.0, 0.1, 0.3, 0.9]),
    small=st.sampled_from([0.0, 0.05, 0.2, 5.0]),
    reserve=st.sampled_from([0.0, 0.5, 1.0]),
)
budgets = st.sampled_from([1024, 2048, 3000, 8192])

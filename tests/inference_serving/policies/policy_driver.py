"""Runs a prefill policy alone: arrivals in, iterations and completions out, without a simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inference_serving.policies import make_prefill_policy
from inference_serving.policies.prefill import PrefillJob, PrefillPlan, PrefillPolicy, account

BUDGET = 100


@dataclass(frozen=True)
class LinearCosts:
    """An iteration takes ``fixed_ns``, ``token_ns`` a token, and ``pair_ns`` a pair of query and key."""

    fixed_ns: int = 0
    token_ns: int = 1
    pair_ns: int = 0

    def batch_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        pairs = sum(tokens * (context + tokens) for tokens, context in chunks)
        return self.fixed_ns + self.token_ns * sum(tokens for tokens, _ in chunks) + self.pair_ns * pairs

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        whole_ns = self.batch_ns([(tokens, context)])
        return whole_ns * (group + 1) // groups - whole_ns * group // groups


@dataclass(frozen=True)
class Prompt:
    """One arrival; prompts are numbered in the order in which they are given."""

    arrival_ns: int
    tokens: int
    client: str = ""


@dataclass(frozen=True)
class Part:
    """One chunk, or a layer group of it, as it ran."""

    prompt: int
    tokens: int
    context: int
    group: int
    groups: int
    planned_ns: int


@dataclass(frozen=True)
class Step:
    start_ns: int
    end_ns: int
    waiting: int
    parts: tuple[Part, ...]


@dataclass
class Episode:
    """What happened: iterations in order, and when each prompt was complete."""

    steps: list[Step] = field(default_factory=list)
    end_ns: dict[int, int] = field(default_factory=dict)
    jobs: list[PrefillJob] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """Prompts by completion."""
        return list(self.end_ns)

    @property
    def ran(self) -> list[dict[int, int]]:
        """Tokens of each prompt in each iteration."""
        return [{part.prompt: part.tokens for part in step.parts} for step in self.steps]


class Driver:
    """Feeds one policy, an iteration at a time; iterations take what the costs say."""

    def __init__(self, policy: PrefillPolicy, costs: LinearCosts, token_budget: int = BUDGET) -> None:
        self.policy = policy
        self.costs = costs
        self.token_budget = token_budget
        self.now_ns = 0
        self.episode = Episode()
        self.unfinished: list[PrefillJob] = []
        self.can_start: Callable[[PrefillJob], bool] = lambda job: True

    def arrive(self, prompt: Prompt, now_ns: int) -> PrefillJob:
        number = len(self.episode.jobs)
        job = PrefillJob(number, prompt.arrival_ns, number, prompt.tokens, client=prompt.client)
        self.episode.jobs.append(job)
        self.unfinished.append(job)
        self.policy.on_arrival(job, now_ns)
        return job

    def run(self, prompts: Sequence[Prompt]) -> Episode:
        """Run until all prompts are complete; they must be given by arrival."""
        coming = list(prompts)
        while coming or self.unfinished:
            if not self.unfinished:
                self.now_ns = max(self.now_ns, coming[0].arrival_ns)
            self._admit(coming, self.now_ns)
            plan = self.policy.plan(self.token_budget, self.now_ns, self.can_start)
            assert plan is not None, "there is work, but the policy plans none"
            end_ns = self.now_ns + self._duration_ns(plan)
            self._admit(coming, end_ns - 1)
            self._finish(plan, end_ns)
        return self.episode

    def step(self) -> PrefillPlan | None:
        """Run one iteration without further arrivals."""
        plan = self.policy.plan(self.token_budget, self.now_ns, self.can_start)
        if plan is not None:
            self._finish(plan, self.now_ns + self._duration_ns(plan))
        return plan

    def _admit(self, coming: list[Prompt], until_ns: int) -> None:
        while coming and coming[0].arrival_ns <= until_ns:
            self.arrive(coming[0], max(coming[0].arrival_ns, self.now_ns))
            del coming[0]

    def _duration_ns(self, plan: PrefillPlan) -> int:
        first = plan.chunks[0]
        if first.groups > 1:
            return self.costs.group_ns(first.tokens, first.job.computed, first.group, first.groups)
        return self.costs.batch_ns([(chunk.tokens, chunk.job.computed) for chunk in plan.chunks])

    def _finish(self, plan: PrefillPlan, end_ns: int) -> None:
        parts = tuple(
            Part(c.job.request_id, c.tokens, c.job.computed, c.group, c.groups, c.planned_ns)
            for c in plan.chunks
        )
        self.episode.steps.append(Step(self.now_ns, end_ns, len(self.unfinished), parts))
        for chunk in plan.chunks:
            chunk.job.started = True
        start_ns, self.now_ns = self.now_ns, end_ns
        account(plan)
        self.policy.on_progress(plan, start_ns, end_ns)
        for chunk in plan.chunks:
            if not chunk.job.remaining_tokens:
                self.policy.on_finish(chunk.job, end_ns)
                self.unfinished.remove(chunk.job)
                self.episode.end_ns[chunk.job.request_id] = end_ns


def driver(name: str, costs: LinearCosts | None = None, budget: int = BUDGET, **args: object) -> Driver:
    """A driver of the policy of this name, with these options."""
    costs = costs or LinearCosts()
    texts = {option: str(value) for option, value in args.items()}
    return Driver(make_prefill_policy(name, texts, costs, budget), costs, budget)


def drive(
    name: str,
    prompts: Sequence[Prompt],
    costs: LinearCosts | None = None,
    budget: int = BUDGET,
    **args: object,
) -> Episode:
    """Run the policy of this name, with these options, on some prompts."""
    return driver(name, costs, budget, **args).run(prompts)


def by_arrival(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts as a driver wants them."""
    return sorted(prompts, key=lambda prompt: prompt.arrival_ns)

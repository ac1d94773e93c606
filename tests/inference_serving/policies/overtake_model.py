"""A second, independent Bounded Overtake and its queue, written from the algorithm's text alone.

Plain Python, as slow and as literal as it can be: no numpy, nothing of ``inference_serving``. Decisions are
tuples ``(order, tokens, group)``, one a chunk, so that they can be compared with anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import inf

NS_PER_S = 1e9
Decision = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Costs:
    """Prefill times with attention priced per request; ns.

    A batch takes ``fixed + token * tokens + pair/2 * n * (2 ctx + n)`` a chunk; with ``floor``, its tokens and
    the fixed part overlap (memory-bound small batches). Subadditive unless ``company`` (ns for each chunk but the
    first) exceeds ``fixed``. A layer group costs its share plus ``group_extra``.
    """

    fixed: int = 5_000_000
    token: int = 33_000
    pair: int = 2
    floor: bool = False
    company: int = 0
    group_extra: int = 100_000

    def batch_ns(self, chunks) -> int:
        dense = self.token * sum(tokens for tokens, _ in chunks)
        attention = sum(self.pair * tokens * (2 * context + tokens) // 2 for tokens, context in chunks)
        linear = max(self.fixed, dense) if self.floor else self.fixed + dense
        return linear + attention + self.company * (len(chunks) - 1)

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        whole = self.batch_ns([(tokens, context)])
        return whole * (group + 1) // groups - whole * group // groups + self.group_extra


@dataclass(frozen=True)
class Rules:
    """Parameters of the algorithm; ``small`` and ``tau`` in seconds."""

    chunk: int = 2048
    tau: float = 0.2
    groups: int = 4
    beta: float = 0.5
    sigma: float = 0.3
    small: float = 0.2
    reserve: float = 0.5


@dataclass
class Prompt:
    """One unfinished prompt; ``left`` has the tokens and the step times of each chunk that is still to end."""

    order: int
    arrival: int
    done: int
    left: list[tuple[int, list[int]]]
    v: int = 0
    charge: int = 0
    held: int = 0
    may_run: bool = True
    history: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def rem(self) -> int:
        return sum(sum(steps) for _, steps in self.left) - sum(self.left[0][1][: self.held])

    @property
    def last(self) -> bool:
        return len(self.left) == 1


class Model:
    """Bounded Overtake at one instance; the caller owns the clock."""

    def __init__(self, costs: Costs, rules: Rules, token_budget: int) -> None:
        self.costs, self.rules, self.token_budget = costs, rules, token_budget
        self.prompts: list[Prompt] = []
        self.virtual_fcfs = 0

    def arrive(self, order: int, arrival: int, prompt_tokens: int, warm: int = 0) -> tuple[int, int]:
        """Returns v and the virtual FCFS completion."""
        prompt = Prompt(order, arrival, warm, self.chunks_of(prompt_tokens, warm))
        prompt.v = prompt.rem
        self.prompts.append(prompt)
        self.virtual_fcfs = max(self.virtual_fcfs, arrival) + prompt.v
        return prompt.v, self.virtual_fcfs

    def chunks_of(self, prompt_tokens: int, warm: int) -> list[tuple[int, list[int]]]:
        quantum = min(self.rules.chunk, self.token_budget)
        chunks = []
        while warm < prompt_tokens:
            tokens = min(quantum, prompt_tokens - warm)
            if self.rules.tau and self.costs.batch_ns([(tokens, warm)]) > self.rules.tau * NS_PER_S:
                tokens = min(max(quantum // 2, 1), prompt_tokens - warm)
            groups = self.rules.groups if warm + tokens < prompt_tokens else 1
            if groups == 1:
                steps = [self.costs.batch_ns([(tokens, warm)])]
            else:
                steps = [self.costs.group_ns(tokens, warm, group, groups) for group in range(groups)]
            chunks.append((tokens, steps))
            warm += tokens
        return chunks

    def decide(self, now: int) -> Decision:
        """Steps 1 to 3; an empty list if nobody may run."""
        allowed = [prompt for prompt in self.prompts if prompt.may_run]
        while allowed:
            line = sorted(allowed, key=lambda prompt: (prompt.v * prompt.rem, prompt.order))
            batch = self.density_batch(line)
            critical = next((one for one in self.by_arrival() if self.refuses(one, batch, now)), None)
            if critical is None:
                return [(one.order, one.left[0][0], one.held) for one in batch]
            allowed = [prompt for prompt in allowed if prompt.order <= critical.order]
        return []

    def by_arrival(self) -> list[Prompt]:
        return sorted(self.prompts, key=lambda prompt: prompt.order)

    def density_batch(self, line: list[Prompt]) -> list[Prompt]:
        head, rest = line[0], line[1:]
        batch = [head]
        if not head.last:
            return batch
        for one in rest:
            if not one.last or sum(x.left[0][0] for x in [*batch, one]) > self.token_budget:
                continue
            cost, more = self.cost(batch), self.cost([*batch, one])
            added = max(more - cost, 1)
            dense = Fraction(1, one.v) / added >= sum(Fraction(1, x.v) for x in batch) / cost
            if not dense or added > self.step(one):
                break
            batch.append(one)
        return batch

    def cost(self, batch: list[Prompt]) -> int:
        if len(batch) == 1:
            return self.step(batch[0])
        return self.costs.batch_ns([(one.left[0][0], one.done) for one in batch])

    def step(self, one: Prompt) -> int:
        return one.left[0][1][one.held]

    def delay(self, one: Prompt, batch: list[Prompt], cost: int) -> int:
        """What a batch makes an earlier prompt wait for later ones; 0 for its latest and all who came after."""
        if one.order >= max(x.order for x in batch):
            return 0
        return max(0, cost - sum(self.step(x) for x in batch if x.order <= one.order))

    def refuses(self, one: Prompt, batch: list[Prompt], now: int) -> bool:
        if one.order >= max(x.order for x in batch):
            return False
        small = all(x.v <= self.rules.small * NS_PER_S for x in batch)
        kept = 0.0 if small or one in batch else self.rules.beta * self.rules.reserve * one.v
        return self.budget(one, now) - self.delay(one, batch, self.cost(batch)) < kept

    def budget(self, one: Prompt, now: int) -> float:
        return self.rules.beta * one.v + self.rules.sigma * (now - one.arrival) - one.charge

    def run(self, decision: Decision, start: int, end: int) -> list[int]:
        """Step 4 and the progress; returns who has finished."""
        batch = [next(one for one in self.prompts if one.order == order) for order, _, _ in decision]
        for one in self.prompts:
            one.charge += self.delay(one, batch, end - start)
        for one in batch:
            tokens, steps = one.left[0]
            one.history.append((tokens, one.held, steps[one.held]))
            one.held += 1
            if one.held == len(steps):
                one.held = 0
                one.done += tokens
                one.left.pop(0)
        finished = [one.order for one in batch if not one.left]
        self.prompts = [one for one in self.prompts if one.left]
        return finished

    def least_budget(self, now: int) -> float:
        """The smallest budget that anybody has left."""
        return min((self.budget(one, now) for one in self.prompts), default=inf)

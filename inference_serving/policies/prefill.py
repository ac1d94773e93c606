"""What a prefill policy sees and says: jobs with predicted times in, a plan of chunks out.

A prefill policy decides which unfinished prompts run next and how many tokens of each. It knows predicted
times, never KV blocks: the scheduler tells it, job by job, whether memory allows a start. The modules of
prefill policies import nothing but numpy, so that the same objects also run inside a real serving engine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Forecast:
    """The chunks a prompt is predicted to run in: cumulative tokens (its warm ones included) and times in ns."""

    tokens: tuple[int, ...]
    times_ns: tuple[int, ...]

    def elapsed_ns(self, computed: int) -> int:
        """Predicted time from the warm state to ``computed`` tokens, in a straight line inside a chunk."""
        after = bisect_right(self.tokens, computed)
        if after == len(self.tokens):
            return self.times_ns[-1]
        first, last = self.tokens[after - 1], self.tokens[after]
        begin_ns, end_ns = self.times_ns[after - 1], self.times_ns[after]
        return begin_ns + (end_ns - begin_ns) * (computed - first) // (last - first)

    def is_boundary(self, computed: int) -> bool:
        """Whether a predicted chunk begins after ``computed`` tokens."""
        after = bisect_right(self.tokens, computed)
        return after > 0 and self.tokens[after - 1] == computed

    def next_chunk(self, computed: int) -> tuple[int, int]:
        """Tokens and ns from ``computed`` to the end of its predicted chunk."""
        after = bisect_right(self.tokens, computed)
        return self.tokens[after] - computed, self.times_ns[after] - self.elapsed_ns(computed)


@dataclass(slots=True, eq=False)
class PrefillJob:
    """One unfinished prompt at one instance; tokens and ns.

    ``order`` numbers arrivals at the instance, ``computed`` counts tokens with KV (a prefix hit included).
    ``isolated_ns`` is the predicted time of the prompt alone on the instance, from its warm state and with
    the chunks that would really run, ``remaining_ns`` the part of it still to run. A chunk may run as
    ``groups`` layer groups; ``held_tokens`` is the chunk whose first ``held_groups`` groups have run.
    ``bound_ns`` is the longest time from arrival to completion that the policy guarantees, if it guarantees any.
    """

    request_id: int
    arrival_ns: int
    order: int
    prompt_tokens: int
    computed: int = 0
    priority: int = 0
    client: str = ""
    isolated_ns: int = 0
    remaining_ns: int = 0
    overtaken_ns: int = 0
    bound_ns: int | None = None
    chunks: int = 0
    pauses: int = 0
    held_tokens: int = 0
    held_groups: int = 0
    started: bool = False
    belief: float = 1.0
    """Factor by which predictions of this job are wrong, when misprediction is studied."""
    forecast: Forecast | None = None

    @property
    def remaining_tokens(self) -> int:
        """Prompt tokens that have no KV yet."""
        return self.prompt_tokens - self.computed


@dataclass(frozen=True, slots=True)
class Chunk:
    """``tokens`` of one job in the next iteration; ``planned_ns`` is the predicted time of this step alone.

    With ``groups`` > 1 only layer group ``group`` of ``groups`` runs, and the tokens count as computed after
    the last one.
    """

    job: PrefillJob
    tokens: int
    planned_ns: int
    group: int = 0
    groups: int = 1

    @property
    def completes(self) -> bool:
        """Whether the chunk's tokens have KV when this step ends."""
        return self.group == self.groups - 1


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """The prefill part of the next iteration and its predicted time; several chunks are always whole ones."""

    chunks: tuple[Chunk, ...]
    predicted_ns: int


def account(plan: PrefillPlan) -> None:
    """Write what an iteration has run to its jobs; whoever runs a plan calls this before ``on_progress``."""
    for chunk in plan.chunks:
        job = chunk.job
        if chunk.completes:
            job.computed += chunk.tokens
            job.chunks += 1
            job.held_tokens = job.held_groups = 0
        else:
            job.held_groups += 1


CanStart = Callable[[PrefillJob], bool]
"""Whether memory allows a job that has not started to start now."""


class CostModel(Protocol):
    """Predicted prefill times of one instance."""

    def batch_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        """Time of one iteration of prefill chunks, each ``(tokens, tokens cached before them)``."""
        ...

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        """Time of one layer group of an iteration that runs one chunk."""
        ...


class PrefillPolicy(Protocol):
    """Chooses the prefill part of every iteration of one instance."""

    def on_arrival(self, job: PrefillJob, now_ns: int) -> None:
        """A job has reached the instance; the policy predicts its times and remembers it."""
        ...

    def plan(self, token_budget: int, now_ns: int, can_start: CanStart) -> PrefillPlan | None:
        """The chunks to run next; None if no job can run."""
        ...

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        """A plan has run; called before the ``on_finish`` of jobs that it completed."""
        ...

    def on_warm_change(self, job: PrefillJob, now_ns: int) -> None:
        """A job that starts finds another part of its prompt cached than when it arrived."""
        ...

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """A job has left: its prompt is computed, or it was sent back without its KV (and will arrive again)."""
        ...

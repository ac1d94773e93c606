"""First come, first served with caps on how many prompts may be half-done: vLLM's answer to long prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from inference_serving.policies.options import PolicyOptions, check_range
from inference_serving.policies.ordered import OrderedPolicy, PrefillKey, runnable_jobs
from inference_serving.policies.prefill import CanStart, CostModel, PrefillJob, PrefillPlan


@dataclass(frozen=True, slots=True)
class LongCapsOptions(PolicyOptions):
    """Options of ``long-caps``, under vLLM's names.

    Attributes:
        max_num_partial_prefills: Most prompts that are half-done at a time.
        max_long_partial_prefills: Most long ones among them.
        long_prefill_token_threshold: A prompt with more tokens to compute than this is long.
    """

    max_num_partial_prefills: int = 4
    max_long_partial_prefills: int = 1
    long_prefill_token_threshold: int = 2048

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        PolicyOptions.__post_init__(self)
        most = self.max_num_partial_prefills
        check_range("max_num_partial_prefills", most, 1, 1e6)
        check_range("max_long_partial_prefills", self.max_long_partial_prefills, 1, most)
        check_range("long_prefill_token_threshold", self.long_prefill_token_threshold, 1, 1e12)


class LongCaps(OrderedPolicy):
    """Concurrent partial prefills as in vLLM's chunked prefill (three fields of its SchedulerConfig).

    Half-done prompts go on, in order of arrival; then waiting ones are taken in order of arrival, as long as no
    more than ``max_num_partial_prefills`` are at work. A long prompt that finds all slots of long ones taken
    is passed by those behind it. Those at work share the token budget evenly. What a prompt leaves of its share goes
    to the others in order (so that no budget is lost), then to waiting ones, of which the same numbers hold:
    no more than so many are half-done when the iteration ends.

    With layer groups or density batches a chunk of a half-done prompt runs alone, so the budget cannot be
    shared in space; it is shared in time: whoever has not run for longest goes next, who never ran first.
    """

    options_type = LongCapsOptions
    options: LongCapsOptions

    def __init__(self, costs: CostModel, options: LongCapsOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        self._ran_at_ns: dict[int, int] = {}

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Arrival, which ties decide."""
        return ()

    def plan(self, token_budget: int, now_ns: int, can_start: CanStart) -> PrefillPlan | None:
        """The chunks to run next, within the caps."""
        if self.options.density or self.options.groups > 1:
            return self.batch(self._in_turn(can_start), token_budget, can_start)
        grants = self._grants(token_budget, can_start)
        if not grants:
            return None
        chunks = [self._chunk(job, tokens) for job, tokens in grants.items() if tokens]
        return PrefillPlan(tuple(chunks), self._believed_ns(chunks))

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        """Note who has run."""
        super().on_progress(plan, start_ns, end_ns)
        self._ran_at_ns.update(dict.fromkeys((chunk.job.order for chunk in plan.chunks), end_ns))

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """Forget the job."""
        super().on_finish(job, now_ns)
        self._ran_at_ns.pop(job.order, None)

    def is_long(self, job: PrefillJob) -> bool:
        """Whether what is left of the prompt makes it one of the long ones."""
        return job.remaining_tokens > self.options.long_prefill_token_threshold

    def _in_line(self) -> Iterator[PrefillJob]:
        """Half-done jobs, then waiting ones, each in order of arrival."""
        jobs = [entry[2] for entry in self._queue]
        yield from (job for job in jobs if job.started)
        yield from (job for job in jobs if not job.started)

    def _grants(self, token_budget: int, can_start: CanStart) -> dict[PrefillJob, int]:
        options, left = self.options, token_budget
        line = runnable_jobs(self._in_line(), can_start)
        first, passed = self._admit(line, options.max_num_partial_prefills)
        if not first or not left:
            return {}
        share = max(left // len(first), 1)
        grants = dict.fromkeys(first, 0)
        for most in (share, token_budget):
            for job in grants:
                tokens = min(max(self._quantum(job) - grants[job], 0), most, left)
                grants[job] += tokens
                left -= tokens
        halves = [job for job, tokens in grants.items() if tokens < job.remaining_tokens]
        longs = sum(self.is_long(job) for job in halves)
        for job in chain(passed, line):
            if left == 0 or len(halves) == options.max_num_partial_prefills:
                break
            tokens = min(self._quantum(job), left)
            if tokens < job.remaining_tokens:
                if self.is_long(job) and longs == options.max_long_partial_prefills:
                    continue
                halves.append(job)
                longs += self.is_long(job)
            grants[job] = tokens
            left -= tokens
        return grants

    def _admit(self, line: Iterable[PrefillJob], most: int) -> tuple[list[PrefillJob], list[PrefillJob]]:
        """The first ``most`` jobs of a line that the cap on long ones admits, and the long ones passed."""
        admitted: list[PrefillJob] = []
        passed: list[PrefillJob] = []
        longs = 0
        for job in line:
            if self.is_long(job) and not job.started and longs >= self.options.max_long_partial_prefills:
                passed.append(job)
                continue
            longs += self.is_long(job)
            admitted.append(job)
            if len(admitted) == most:
                break
        return admitted, passed

    def _in_turn(self, can_start: CanStart) -> Iterator[PrefillJob]:
        """Those at work, in turn; then the waiting ones that need no slot, for a batch of whole prompts."""
        line = runnable_jobs(self._in_line(), can_start)
        admitted, _ = self._admit(line, self.options.max_num_partial_prefills)
        yield from sorted(admitted, key=lambda job: (self._ran_at_ns.get(job.order, -1), job.order))
        yield from (job for job in line if not self.is_long(job))

"""Fair shares of an instance: by virtual processor sharing, and by tokens served to each client."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inference_serving.policies.options import PolicyOptions, check_range
from inference_serving.policies.ordered import OrderedPolicy, PrefillKey
from inference_serving.policies.prefill import CanStart, CostModel, PrefillJob, PrefillPlan


class ProcessorSharing:
    """A virtual machine that serves all its jobs at once, each at an equal share.

    Every job present has been served equally since any moment, so with V(t), the time served to each job
    that has been there from the start, one that enters at a with a need of v is done when V reaches V(a) + v:
    its *tag* never changes, and only V has to be kept (``O(log n)`` a job).
    """

    def __init__(self) -> None:
        self._served_ns = 0.0
        self._now_ns = 0
        self._tags_ns: list[float] = []

    def enter(self, need_ns: int, now_ns: int) -> float:
        """Add a job; returns its tag. Jobs end in ascending order of tags."""
        self._advance(now_ns)
        tag_ns = self._served_ns + need_ns
        heapq.heappush(self._tags_ns, tag_ns)
        return tag_ns

    def unfinished(self, now_ns: int) -> int:
        """Jobs that are still being served at ``now_ns``."""
        self._advance(now_ns)
        return len(self._tags_ns)

    def _advance(self, now_ns: int) -> None:
        left_ns = float(max(now_ns - self._now_ns, 0))
        self._now_ns = max(now_ns, self._now_ns)
        while self._tags_ns:
            sharing = len(self._tags_ns)
            to_next_ns = (self._tags_ns[0] - self._served_ns) * sharing
            if to_next_ns > left_ns:
                self._served_ns += left_ns / sharing
                return
            left_ns -= to_next_ns
            self._served_ns = heapq.heappop(self._tags_ns)
        self._served_ns = 0.0


class FairSojourn(OrderedPolicy):
    """Fair Sojourn Protocol (Friedman and Henderson, SIGMETRICS 2003).

    Jobs run one after the other, in the order in which processor sharing would complete them; with exact times
    none ends later than under processor sharing. Jobs that the virtual machine has completed already go first, in the
    order of their virtual completions. A prompt that was sent back without its KV keeps its place.
    """

    def __init__(self, costs: CostModel, options: PolicyOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        self._virtual = ProcessorSharing()
        self._rounds = 0
        self._tags: dict[int, tuple[int, float]] = {}
        self._sent_back: dict[int, tuple[int, float]] = {}

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Virtual completion."""
        return self._tags[job.order]

    def on_arrival(self, job: PrefillJob, now_ns: int) -> None:
        """Let the job into the virtual machine and queue it."""
        self.forecaster.predict(job)
        tag = self._sent_back.pop(job.request_id, None)
        self._tags[job.order] = self._tag(job, now_ns) if tag is None else tag
        self._insert(job, now_ns)

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """Forget the job; the virtual machine goes on serving it until its virtual completion."""
        super().on_finish(job, now_ns)
        tag = self._tags.pop(job.order)
        if job.remaining_tokens:
            self._sent_back[job.request_id] = tag

    def _tag(self, job: PrefillJob, now_ns: int) -> tuple[int, float]:
        if self._virtual.unfinished(now_ns) == 0:  # V starts again from 0: nobody loses digits in a long run
            self._rounds += 1
        return self._rounds, self._virtual.enter(job.isolated_ns, now_ns)


@dataclass(frozen=True, slots=True)
class VtcOptions(PolicyOptions):
    """Options of ``vtc``.

    Attributes:
        long_tokens: Prompts of at least this many tokens without a client count as one client, all
            others without a client as another; 0: all are one.
    """

    long_tokens: int = 4096

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        PolicyOptions.__post_init__(self)
        check_range("long_tokens", self.long_tokens, 0, 1e12)


class VirtualTokenCounter(OrderedPolicy):
    """Virtual token counter (VTC; Sheng et al., OSDI 2024): the least served client goes first.

    A client is ``job.client``: the simulator gives the request's class. Jobs without one are split by length
    (``long_tokens``). A counter holds the prompt tokens computed for a client; outputs are another stage's. A
    client that comes back is lifted to the least counter of those who are here (of the last who left, if
    nobody is), so that nobody saves service up. Inside a client: first come, first served. The paper
    charges a prompt at admission and then runs it to its end; in chunks, tokens are charged as they run and
    the choice is made anew at every scheduling boundary, counting what the batch already holds.
    """

    options_type = VtcOptions
    options: VtcOptions

    def __init__(self, costs: CostModel, options: VtcOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        self._counters: defaultdict[str, float] = defaultdict(float)
        self._waiting: dict[str, list[tuple[int, PrefillJob]]] = {}
        self._last_client = ""

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Arrival, which orders the jobs of one client."""
        return ()

    def client_of(self, job: PrefillJob) -> str:
        """Who is charged for a job."""
        if job.client:
            return f"client {job.client}"
        return "long" if 0 < self.options.long_tokens <= job.prompt_tokens else "short"

    def served_tokens(self, client: str) -> float:
        """The client's counter."""
        return self._counters[client]

    def on_arrival(self, job: PrefillJob, now_ns: int) -> None:
        """Queue the job, and lift its client's counter if the client had nothing here."""
        super().on_arrival(job, now_ns)
        client = self.client_of(job)
        if client not in self._waiting:
            others = [self._counters[other] for other in self._waiting] or [self._counters[self._last_client]]
            self._counters[client] = max(self._counters[client], min(others))
            self._waiting[client] = []
        insort(self._waiting[client], (job.order, job))

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        """Charge the tokens that have KV now."""
        for chunk in plan.chunks:
            self._counters[self.client_of(chunk.job)] += chunk.tokens / chunk.groups
        super().on_progress(plan, start_ns, end_ns)

    def on_finish(self, job: PrefillJob, now_ns: int) -> None:
        """Forget the job."""
        super().on_finish(job, now_ns)
        client = self.client_of(job)
        self._waiting[client].remove((job.order, job))
        if not self._waiting[client]:
            del self._waiting[client]
            self._last_client = client

    def plan(self, token_budget: int, now_ns: int, can_start: CanStart) -> PrefillPlan | None:
        """The chunks to run next, client by client."""
        return self.batch(self._by_client(token_budget), token_budget, can_start)

    def in_order(self, now_ns: int) -> Iterable[PrefillJob]:
        """All unfinished jobs, as they would be taken if each ran a chunk."""
        return self._by_client(self.forecaster.chunk_tokens)

    def _by_client(self, token_budget: int) -> Iterator[PrefillJob]:
        """Always the next job of the client with the least counter, charged with what a batch may take of it."""
        heads = [(self._counters[client], jobs[0][0], client, 0) for client, jobs in self._waiting.items()]
        heapq.heapify(heads)
        while heads:
            served, _, client, place = heapq.heappop(heads)
            jobs = self._waiting[client]
            job = jobs[place][1]
            yield job
            served += min(job.remaining_tokens, self.forecaster.chunk_tokens, token_budget)
            if place + 1 < len(jobs):
                heapq.heappush(heads, (served, jobs[place + 1][0], client, place + 1))

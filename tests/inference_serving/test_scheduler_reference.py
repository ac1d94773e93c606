"""The scheduler against a slow one that is obviously right: both must form the same batches, one by one.

The slow one is vLLM's rule in plain Python lists: a request's need is what it has not computed of the tokens
that it has; running requests first, then waiting ones; without a free block the tail (or, under priority, the
least urgent) is preempted, and an iteration that preempted admits nobody. One iteration ahead, a batch is
formed as if the tokens of the running one were known already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_builders import ITERATION_NS, AheadBench, Bench, Item

from inference_serving.settings import SchedulerSettings

ENDLESS = 10**9


@dataclass(eq=False)
class Plain:
    """A request: ``known`` tokens it has, ``computed`` of them have KV, ``held`` have room for it.

    ``drafts`` are tokens that it may run beyond those known, see ``test_speculative_scheduler.py``.
    """

    name: str
    rank: tuple[int, ...]
    known: int
    end: int
    computed: int = 0
    held: int = 0
    drafts: int = 0
    token_times_ns: list[int] = field(default_factory=list)
    preemptions: int = 0


class PlainScheduler:
    """One page, no arrays, and nothing kept that can be counted anew."""

    def __init__(self, settings: SchedulerSettings, kv_blocks: int) -> None:
        self.settings, self.kv_blocks = settings, kv_blocks
        self.running: list[Plain] = []
        self.waiting: list[Plain] = []

    def fits(self, request: Plain, tokens: int) -> bool:
        others = [other.held for other in self.running if other is not request]
        return sum(-(-held // self.settings.block_size) for held in [*others, tokens]) <= self.kv_blocks

    def need(self, request: Plain, budget: int) -> int:
        threshold = self.settings.long_prefill_token_threshold or ENDLESS
        return min(request.known + request.drafts - request.computed, threshold, budget)

    def form(self) -> tuple[list[Item], bool]:
        """One round: the batch, and whether somebody was preempted for it."""
        budget, granted, preempted = self.settings.max_num_batched_tokens or ENDLESS, {}, False
        for request in list(self.running):  # first those that run
            if budget == 0 or request not in self.running:
                continue
            need = self.need(request, budget)
            while request in self.running and not self.fits(request, request.computed + need):
                fcfs = self.settings.scheduling_policy == "fcfs"
                victim = self.running[-1] if fcfs else max(self.running, key=lambda other: other.rank)
                self.running.remove(victim)
                self.waiting.append(victim)
                victim.computed = victim.held = victim.drafts = 0
                victim.preemptions += 1
                budget += granted.pop(victim, 0)
                preempted = True
            if request not in self.running:
                break
            granted[request] = need
            request.held = max(request.held, request.computed + need)
            budget -= need
        self.waiting.sort(key=lambda request: request.rank)  # then those that wait, unless somebody gave way
        while self.waiting and budget and not preempted and len(self.running) < self.most_sequences():
            request = self.waiting[0]
            need = self.need(request, budget)
            whole = self.settings.reserve_full_isl
            if need < request.known and not self.settings.enable_chunked_prefill:
                break
            if not self.fits(request, request.known if whole else need):
                break
            self.running.append(self.waiting.pop(0))
            granted[request] = request.held = need
            budget -= need
        return [(r.name, granted[r], r.computed) for r in self.running if r in granted], preempted

    def most_sequences(self) -> int:
        return self.settings.max_num_seqs or ENDLESS

    def step(self, end_ns: int) -> list[Item]:
        batch, preempted = self.form()
        while preempted and not batch:
            batch, preempted = self.form()
        ran = {name for name, _, _ in batch}
        for request in [request for request in self.running if request.name in ran]:
            request.computed = request.held
            if request.computed == request.known:
                request.known += 1
                request.token_times_ns.append(end_ns)
            if request.known == request.end:
                self.running.remove(request)
        return batch


class PlainAheadScheduler(PlainScheduler):
    """The same one iteration ahead: ``known`` counts tokens on their way, and the last one ends the need."""

    def __init__(self, settings: SchedulerSettings, kv_blocks: int) -> None:
        super().__init__(settings, kv_blocks)
        self.ahead: tuple[list[Item], list[Plain]] | None = None

    def need(self, request: Plain, budget: int) -> int:
        return 0 if request.known == request.end else super().need(request, budget)

    def form_ahead(self, idle: bool) -> tuple[list[Item], list[Plain]] | None:
        """A batch and the requests that emit a token at its end; None if nothing can run."""
        batch, preempted = self.form()
        while idle and preempted and not batch:
            batch, preempted = self.form()
        batch = [item for item in batch if item[1]]
        ran, emitting = {name for name, _, _ in batch}, []
        for request in [request for request in self.running if request.name in ran]:
            request.computed = request.held
            if request.computed == request.known:
                request.known += 1
                emitting.append(request)
        return (batch, emitting) if batch else None

    def step(self, end_ns: int) -> list[Item]:
        now = self.ahead or self.form_ahead(idle=True)
        if now is None:
            return []
        self.ahead = self.form_ahead(idle=False)
        for request in now[1]:
            request.token_times_ns.append(end_ns)
            if request.known == request.end and not (self.ahead and request in self.ahead[1]):
                (self.running if request in self.running else self.waiting).remove(request)
        return now[0]


@dataclass(frozen=True)
class Arrival:
    """A request that comes before iteration number ``iteration``."""

    iteration: int
    prompt: int
    output: int
    priority: int


workloads = st.lists(
    st.builds(
        Arrival,
        iteration=st.integers(0, 20),
        prompt=st.integers(1, 40),
        output=st.integers(1, 12),
        priority=st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
).map(lambda arrivals: sorted(arrivals, key=lambda arrival: arrival.iteration))

limits = st.fixed_dictionaries(
    {
        "max_num_seqs": st.sampled_from([0, 1, 2, 3, 5]),
        "max_num_batched_tokens": st.sampled_from([0, 1, 3, 8, 16, 64]),
        "block_size": st.sampled_from([1, 2, 4, 16]),
        "long_prefill_token_threshold": st.sampled_from([0, 0, 1, 3, 7]),
        "reserve_full_isl": st.booleans(),
    }
)


def check_same_batches(workload: list[Arrival], kv_blocks: int, ahead: bool = False, **settings_) -> int:
    """Run both side by side; return how many requests were preempted."""
    bench = (AheadBench if ahead else Bench)(kv_blocks, **settings_)
    reference = (PlainAheadScheduler if ahead else PlainScheduler)(bench.settings, kv_blocks)
    pairs, pending, iteration = [], list(workload), 0
    while pending or reference.running or reference.waiting:
        while pending and pending[0].iteration <= iteration:
            new, number = pending.pop(0), len(pairs)
            ours = bench.add(str(number), new.prompt, new.output, priority=new.priority, arrival_ns=number)
            rank = (new.priority, number) if bench.settings.scheduling_policy == "priority" else (number,)
            plain = Plain(str(number), rank, known=new.prompt, end=new.prompt + new.output)
            reference.waiting.append(plain)
            pairs.append((ours, plain))
        expected = reference.step(bench.now_ns + ITERATION_NS)
        assert bench.step() == expected, f"iteration {iteration}"
        assert expected or pending, "requests are left but nothing can run"
        iteration += 1
    for ours, plain in pairs:
        assert ours.token_times_ns().tolist() == plain.token_times_ns
        assert ours.preemptions == plain.preemptions
    assert bench.kv_cache.used_blocks == 0
    return sum(plain.preemptions for _, plain in pairs)


def blocks_for_the_longest(workload: list[Arrival], block_size: int) -> int:
    return max(-(-(arrival.prompt + arrival.output) // block_size) for arrival in workload)


@settings(max_examples=100)
@given(workloads, limits)
def test_fcfs_with_ample_kv_forms_the_same_batches(workload, limits):
    assert check_same_batches(workload, 10_000, **limits) == 0


@settings(max_examples=150)
@given(workloads, limits, st.integers(0, 6))
def test_fcfs_with_short_kv_forms_the_same_batches(workload, limits, spare_blocks):
    kv_blocks = blocks_for_the_longest(workload, limits["block_size"]) + spare_blocks
    check_same_batches(workload, kv_blocks, **limits)


@settings(max_examples=150)
@given(workloads, limits, st.integers(0, 6))
def test_priority_with_short_kv_forms_the_same_batches(workload, limits, spare_blocks):
    kv_blocks = blocks_for_the_longest(workload, limits["block_size"]) + spare_blocks
    check_same_batches(workload, kv_blocks, scheduling_policy="priority", **limits)


@settings(max_examples=100)
@given(workloads, limits, st.integers(0, 6), st.sampled_from(["fcfs", "priority"]))
def test_without_chunked_prefill_the_same_batches_are_formed(workload, limits, spare_blocks, policy):
    longest = blocks_for_the_longest(workload, 1)
    whole = {
        "enable_chunked_prefill": False,
        "long_prefill_token_threshold": 0,
        "max_num_batched_tokens": limits["max_num_batched_tokens"]
        and max(limits["max_num_batched_tokens"], longest),
        "scheduling_policy": policy,
    }
    kv_blocks = blocks_for_the_longest(workload, limits["block_size"]) + spare_blocks
    check_same_batches(workload, kv_blocks, **{**limits, **whole})


@settings(max_examples=150)
@given(workloads, limits, st.integers(0, 6), st.sampled_from(["fcfs", "priority"]))
def test_one_iteration_ahead_the_same_batches_are_formed(workload, limits, spare_blocks, policy):
    kv_blocks = blocks_for_the_longest(workload, limits["block_size"]) + spare_blocks
    check_same_batches(workload, kv_blocks, ahead=True, scheduling_policy=policy, **limits)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_long_run_with_steady_pressure_on_kv_forms_the_same_batches(ahead):
    """So that preemption and recomputation are certain to have been compared."""
    workload = [
        Arrival(number // 2, 5 + number * 7 % 23, 1 + number * 5 % 17, number % 3) for number in range(120)
    ]
    for policy in ("fcfs", "priority"):
        preemptions = check_same_batches(
            workload, 24, ahead, block_size=2, max_num_batched_tokens=32, scheduling_policy=policy
        )
        assert preemptions > 20

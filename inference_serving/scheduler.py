"""Continuous batching: which tokens of which requests run in an instance's next iteration.

The rule is vLLM V1's: a request, in prefill or decode, catches up to the tokens it has; running requests
are served first, then waiting ones are admitted, under one token budget, a limit of sequences and the KV
blocks. When a running request finds no block, the policy's victim is preempted and later recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_serving.kv_cache import KvCache
from inference_serving.policies import make_policy
from inference_serving.request import Batch, Int64Array, Request, RequestState
from inference_serving.running_table import RunningTable
from inference_serving.settings import SchedulerSettings
from inference_serving.speculation.drafts import DraftStatistics
from inference_serving.waiting_queue import WaitingQueue

_TRIM_CLOCK_EVERY = 4096


class Refusal(StrEnum):
    """Why a waiting request could not start although it was its turn."""

    MEMORY = "memory"
    DECODE = "decode"


class IterationOutcome(NamedTuple):
    """What an iteration brought: requests that left the running table, and tokens by phase."""

    finished: Sequence[Request]
    handed_over: Sequence[Request]
    generated_tokens: int


class Scheduler:
    """Forms the batches of one instance.

    ``hands_over`` makes it the scheduler of a prefill instance: a request leaves with its first token.
    ``may_admit`` is asked before a waiting request is admitted; a prefill instance
    uses it to reserve KV blocks at the decode side.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        kv_cache: KvCache,
        *,
        hands_over: bool = False,
        may_admit: Callable[[Request], bool] | None = None,
    ) -> None:
        self.settings = settings
        self.kv_cache = kv_cache
        self.waiting = WaitingQueue(make_policy(settings.scheduling_policy))
        self.preemptions = 0
        self.peak_paused_blocks = 0
        """Most KV blocks that half-done prompts held while they were not running."""
        self.planned_ns = 0
        """Time of the last call of ``schedule``."""
        self.refusals: list[tuple[int, int, Refusal]] | None = None
        """Who was refused when (request id, ns), kept only for whoever puts a list here."""
        self.draft_statistics: DraftStatistics | None = None
        """What became of drafts; None without speculation."""
        self._policy = make_policy(settings.scheduling_policy)
        self._table = RunningTable()
        self._token_budget = settings.token_budget
        self._block_size = np.array(kv_cache.block_size)  # numpy multiplies twice as fast by it as by an int
        self._hands_over = hands_over
        self._may_admit = may_admit
        self._waiting_holders = 0
        self._admitted: list[Request] = []

    @property
    def running(self) -> Sequence[Request]:
        """The running requests, in running order."""
        return self._table.requests

    def enqueue(self, request: Request) -> None:
        """Take in a request that has arrived at this instance (or whose KV has landed here)."""
        request.state = RequestState.WAITING
        if self.settings.skip_prefill and request.computed == 0:
            request.computed = request.prompt_tokens - 1
        self._waiting_holders += request.blocks > 0
        self.waiting.add(request)

    def schedule(self, now_ns: int) -> Batch | None:
        """Form the next batch, or return None if no request can run a token now."""
        self.planned_ns = now_ns
        total = self._token_budget - self._plan_batch()
        if total == 0:
            return None
        for request in self._admitted:
            # one admitted now may have given way again to a row that needed its blocks
            if request.first_scheduled_ns < 0 and request.state is RequestState.RUNNING:
                request.first_scheduled_ns = now_ns
        table = self._table
        if self.kv_cache.tiers is not None:
            self.kv_cache.tiers.write(table.requests, table.computed, table.grant)
        grants, context = table.grant.copy(), table.computed.copy()
        in_prompt = context < table.prompt
        prompt_tokens = int(grants.dot(in_prompt)) if np.count_nonzero(in_prompt) else 0
        return Batch(grants, context, total, prompt_tokens, int(np.count_nonzero(grants)))

    def _plan_batch(self) -> int:
        """Plan until something can run or nobody can make room any more; return the token budget left."""
        limit = self._token_budget
        preempted_before = -1
        budget = limit
        while budget == limit and preempted_before != self.preemptions:
            # a pass that only preempted has made room: another one may use it
            preempted_before = self.preemptions
            budget = self._plan()
        return budget

    def _plan(self) -> int:
        """Grant tokens to running rows and admit waiting requests; return the token budget left."""
        self._admitted.clear()
        self._table.grant.fill(0)
        budget, preempted_before = self._token_budget, self.preemptions
        prefill_first = self.settings.prioritize_prefill
        in_prompt = self._table.computed < self._table.prompt if prefill_first else None
        budget = self._grant(in_prompt, budget)
        if self.kv_cache.caches_prefixes:
            self._remember_prompts()
        if self.preemptions == preempted_before:
            # who has just been preempted must not come back ahead of those it made room for
            budget = self._admit(budget)
        return self._grant(self._table.grant == 0, budget) if prefill_first else budget

    def _remember_prompts(self) -> None:
        """Prompt blocks can be found by whoever comes after them in the iteration that computes them, as in vLLM."""
        table = self._table
        for row in np.flatnonzero((table.computed < table.prompt) & (table.grant > 0)).tolist():
            self.kv_cache.remember(table.requests[row], int(table.computed[row] + table.grant[row]))

    def complete(self, end_ns: int) -> IterationOutcome:
        """Account for the iteration that ``schedule`` formed and that ended at ``end_ns``."""
        table = self._table
        finished_rows, generated = self._finish_rows(end_ns)
        finished = table.remove(finished_rows) if finished_rows.size else []
        for request in finished:
            request.state = RequestState.FINISHED
            request.end_ns = end_ns
            self.release(request)
        handed_over: list[Request] = []
        if self._hands_over and (rows := table.emitted_rows()).size:
            handed_over = table.remove(rows)
            for request in handed_over:
                request.state = RequestState.TRANSFERRING
        if table.clock.count % _TRIM_CLOCK_EVERY == 0:
            table.trim_clock()
        return IterationOutcome(finished, handed_over, generated)

    def _finish_rows(self, end_ns: int) -> tuple[Int64Array, int]:
        """Rows whose last token came out at ``end_ns``, and how many tokens came out."""
        return self._table.finish_iteration(end_ns)

    def release(self, request: Request) -> None:
        """Give the request's KV blocks back to this instance's pool."""
        self.kv_cache.release(request)

    @property
    def starved(self) -> bool:
        """Whether a request waits here whose KV is not (or no longer) in this instance's memory."""
        return len(self.waiting) > self._waiting_holders

    def warm_tokens(self, request: Request) -> int:
        """Tokens of a request that has not started whose KV is here now or can be loaded, its own or another's."""
        return request.computed + self.kv_cache.match(request).tokens

    def unfinished_prompts(self, grants: Int64Array | None) -> Iterator[tuple[int, int, int]]:
        """Each request whose prefill goes on after the running iteration, in tokens: all, warm, and with KV then.

        ``grants`` are the running iteration's, None if none runs. Warm tokens are those that need no compute here.
        """
        for request in self.waiting:
            if request.computed < request.prompt_tokens:
                warm = self.warm_tokens(request)
                yield request.num_tokens, warm, warm
        done, known, unfinished = self._prefills_after(grants)
        for row in unfinished.nonzero()[0].tolist():
            request = self._table.requests[row]
            warm = request.prefix_hit_tokens + request.storage_hit_tokens
            yield int(known[row]), warm, int(done[row])

    def _prefills_after(self, grants: Int64Array | None) -> tuple[Int64Array, Int64Array, NDArray[np.bool_]]:
        """Tokens with KV after the running iteration, tokens known, and whether prefill goes on, of each row."""
        table = self._table
        done = table.computed if grants is None else table.computed + grants
        in_prefill = (table.computed < table.prompt) | (table.target - table.computed > 1)
        return done, table.target, in_prefill & (done < table.target)

    def evict_all(self) -> list[Request]:
        """Take every running request out, for a run that is being interrupted; progress is written back."""
        return self._table.remove(list(range(len(self._table))))

    def _grant(self, among: NDArray[np.bool_] | None, budget: int) -> int:
        """Grant tokens to running rows (``among`` masks them) in running order; return what is left."""
        table = self._table
        if not len(table) or budget == 0:
            return budget
        need = self._capped(table.target - table.computed)
        if among is not None:
            need *= among
        total, wanted = int(np.add.reduce(need)), need
        if total > budget:
            before = np.cumsum(need) - need
            need = np.clip(budget - before, 0, need)
            total = budget
        block_size = self.kv_cache.block_size
        extra: Int64Array | NDArray[np.bool_]
        if total == len(table) and among is None and budget > total:  # one token for every row
            extra = table.computed == table.blocks * self._block_size
            extra_total = int(np.count_nonzero(extra))
        else:
            blocks = (table.computed + (need + (block_size - 1))) // block_size
            extra = np.maximum(blocks - table.blocks, 0)  # a row without need holds enough
            extra_total = int(np.add.reduce(extra))
        if extra_total > self.kv_cache.free_blocks:
            return self._grant_with_preemption(
                [table.requests[row] for row in np.flatnonzero(wanted)], budget
            )
        self.kv_cache.take(extra_total)
        table.blocks += extra
        table.grant += need
        return budget - total

    def _capped(self, need: Int64Array) -> Int64Array:
        threshold = self.settings.long_prefill_token_threshold
        return np.minimum(need, threshold) if threshold else need

    def _grant_with_preemption(self, candidates: Sequence[Request], budget: int) -> int:
        """Grant row by row; a row that finds no block makes the policy's victim give up its own."""
        table, kv_cache = self._table, self.kv_cache
        for request in candidates:
            if budget == 0:
                break
            if request.state is not RequestState.RUNNING:
                continue
            row = table.requests.index(request)
            need = self._need(int(table.target[row] - table.computed[row]), budget)
            extra = max(kv_cache.blocks_for(int(table.computed[row]) + need) - int(table.blocks[row]), 0)
            while extra > kv_cache.free_blocks and request.state is RequestState.RUNNING:
                victim = self._policy.victim(table.requests)
                if table.requests[victim] is request and self._waiting_holders:
                    self._drop_last_holder()
                else:
                    budget += self._preempt(victim)
            if request.state is not RequestState.RUNNING:
                break
            row = table.requests.index(request)
            kv_cache.take(extra)
            table.blocks[row] += extra
            table.grant[row] = need
            budget -= need
        return budget

    def _need(self, remaining: int, budget: int) -> int:
        threshold = self.settings.long_prefill_token_threshold
        return min(remaining, threshold or remaining, budget)

    def _preempt(self, row: int) -> int:
        """Send a running request back to the waiting queue without its KV; return the tokens it had."""
        tokens = int(self._table.grant[row])
        (request,) = self._table.remove([row])
        self._drop_kv(request)
        self.waiting.put_back(request)
        return tokens

    def _drop_kv(self, request: Request) -> None:
        if self.kv_cache.tiers is not None:
            self.kv_cache.tiers.evict(request, request.computed)
        self.release(request)
        request.state = RequestState.WAITING
        request.computed = 0
        request.preemptions += 1
        self.preemptions += 1

    def _leave_waiting(self, request: Request, state: RequestState) -> None:
        """Take out a request that gave way, and whose last token here has come all the same."""
        self.waiting.remove(request)
        if self.kv_cache.tiers is not None:
            self.kv_cache.tiers.forget(request)
        request.state = state

    def _admit(self, budget: int) -> int:
        """Admit waiting requests in the policy's order until something is short; return the budget left.

        Only a request whose KV is already here (it came from a prefill instance) may pass one that does
        not fit, because the blocks it holds would otherwise never be freed.
        """
        if not self.waiting:
            return budget
        index, only_holders = 0, False
        limit = self.settings.max_num_seqs or len(self._table) + len(self.waiting)
        while index < len(self.waiting) and budget > 0 and len(self._table) < limit:
            request = self.waiting[index]
            tokens = 0 if only_holders and not request.blocks else self._admissible(request, budget)
            if tokens == 0:
                only_holders = True
                index += 1
                if not self._waiting_holders:
                    break
                continue
            self._start(self.waiting.pop(index), tokens)
            budget -= tokens
        if self.waiting and index == 0 and budget > 0 and len(self._table) >= limit:
            self._refuse(self.waiting[0], Refusal.MEMORY)
        if only_holders and self._waiting_holders and not len(self._table):
            self._drop_last_holder()
            return self._admit(budget)
        return budget

    def _admissible(self, request: Request, budget: int) -> int:
        """Tokens that the request may run in this iteration, 0 if it has to wait."""
        match = self.kv_cache.match(request)
        computed = request.computed + match.tokens
        remaining = request.num_tokens - computed
        tokens = self._need(remaining, budget)
        if tokens < remaining and not self.settings.enable_chunked_prefill:
            return 0
        fit_tokens = request.num_tokens if self.settings.reserve_full_isl else computed + tokens
        held = request.blocks + match.blocks - match.unused
        if self.kv_cache.blocks_for(fit_tokens) - held > self.kv_cache.free_blocks:
            return self._refuse(request, Refusal.MEMORY)
        if self._may_admit is not None and not self._may_admit(request):
            return self._refuse(request, Refusal.DECODE)
        return tokens

    def _refuse(self, request: Request, refusal: Refusal) -> int:
        if self.refusals is not None:
            self.refusals.append((self.planned_ns, request.request_id, refusal))
        return 0

    def _start(self, request: Request, tokens: int) -> None:
        self._waiting_holders -= request.blocks > 0
        self.kv_cache.claim(request)
        extra = max(self.kv_cache.blocks_for(request.computed + tokens) - request.blocks, 0)
        self.kv_cache.take(extra)
        request.blocks += extra
        self.kv_cache.remember(request, request.computed + tokens)
        request.state = RequestState.RUNNING
        self._admitted.append(request)
        self._table.append(request, tokens)

    def _drop_last_holder(self) -> None:
        """Waiting requests may hold the blocks without which nothing can run: the last gives its KV up."""
        self._drop_kv([request for request in self.waiting if request.blocks][-1])
        self._waiting_holders -= 1

"""Scheduling one iteration ahead, as vLLM's asynchronous scheduling does (the default of newer releases).

While an iteration runs, the batch of the next one is formed already, so the accelerator never waits for the
host. What follows from it:

- A request that arrives during an iteration misses the batch that is formed already; its first token comes an
  iteration later than without.
- The next token of a request is scheduled before the one it follows is known: its place is counted, its value
  is not needed. A request whose last token is on its way gets no more tokens, but keeps its place in the
  batch and its KV blocks until that token is out.
- A request that is preempted while a token of it is on its way still gets this token.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inference_serving.kv_cache import KvCache
from inference_serving.request import Batch, Int64Array, Request, RequestState
from inference_serving.scheduler import IterationOutcome, Scheduler
from inference_serving.settings import SchedulerSettings


class AsyncScheduler(Scheduler):
    """Forms the batches of one instance one iteration ahead: ``schedule`` is called before ``complete``.

    At most two batches are formed and not complete: the one that runs and the next one. ``schedule`` has
    to be called once when an iteration begins, even if it returns None then.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        kv_cache: KvCache,
        *,
        hands_over: bool = False,
        may_admit: Callable[[Request], bool] | None = None,
    ) -> None:
        if hands_over:
            raise ValueError("a prefill instance cannot schedule ahead")
        super().__init__(settings, kv_cache, may_admit=may_admit)
        self._incomplete = 0
        self._preempted_due: list[Request] = []

    def schedule(self, now_ns: int) -> Batch | None:
        """Form the batch after the running one, as if the running one had ended."""
        table = self._table
        table.due[:] = table.queued
        table.queued[:] = 0
        batch = super().schedule(now_ns)
        if batch is not None:
            table.queued[:] = table.advance()
            self._incomplete += 1
        return batch

    def complete(self, end_ns: int) -> IterationOutcome:
        """Account for the running iteration, which has ended at ``end_ns``."""
        self._incomplete -= 1
        outcome = super().complete(end_ns)
        if not self._preempted_due:
            return outcome
        late, self._preempted_due = self._preempted_due, []
        finished = [request for request in late if self._deliver(request, end_ns)]
        return IterationOutcome(
            [*outcome.finished, *finished], outcome.handed_over, outcome.generated_tokens + len(late)
        )

    def evict_all(self) -> list[Request]:
        """As without scheduling ahead; tokens on their way are lost."""
        self._table.target -= self._table.due + self._table.queued
        for request in self._preempted_due:
            request.generated -= 1
        self._preempted_due = []
        return super().evict_all()

    def _deliver(self, request: Request, end_ns: int) -> bool:
        """Give a preempted request the token that was on its way; return whether it was the last."""
        request.token_time_parts.append(np.array([end_ns], dtype=np.int64))
        if request.generated < request.output_tokens:
            return False
        self._leave_waiting(request, RequestState.FINISHED)
        request.end_ns = end_ns
        return True

    def _prefills_after(self, grants: Int64Array | None) -> tuple[Int64Array, Int64Array, NDArray[np.bool_]]:
        """The table is ahead of the running iteration by the batch that has been formed after it."""
        del grants
        table = self._table
        done, known = table.computed - table.grant, table.target - table.queued
        return done, known, ((done < table.prompt) | (known - done > 1)) & (done < known)

    def _plan_batch(self) -> int:
        """A pass that only preempted is not repeated while an iteration runs: the next may use the room."""
        return self._plan() if self._incomplete else super()._plan_batch()

    def _finish_rows(self, end_ns: int) -> tuple[Int64Array, int]:
        return self._table.emit_due(end_ns)

    def _grant(self, among: NDArray[np.bool_] | None, budget: int) -> int:
        """Grant tokens to rows that have one to come after those on their way."""
        going_on = self._table.target < self._table.total
        if np.count_nonzero(going_on) < len(self._table):
            among = going_on if among is None else among & going_on
        return super()._grant(among, budget)

    def _preempt(self, row: int) -> int:
        if self._table.due[row]:
            self._preempted_due.append(self._table.requests[row])
        return super()._preempt(row)

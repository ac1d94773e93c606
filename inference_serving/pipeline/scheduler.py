"""Scheduling for pipeline stages: several batches of one instance are on their way at once, as in vLLM's batch queue.

What follows from it:

- A request whose next token is on its way gets no decode token until the batch that brings it has come back.
- Chunks of one prompt may follow each other, since a chunk needs no token that is not known.
- A request that is preempted while a token of it is on its way still gets this token, and does not start again
  before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inference_serving.kv_cache import KvCache
from inference_serving.request import Batch, Int64Array, Request, RequestState
from inference_serving.running_table import EmissionClock, RunningTable
from inference_serving.scheduler import IterationOutcome, Scheduler
from inference_serving.settings import SchedulerSettings


class PipelineTable(RunningTable):
    """Rows whose tokens come back with different batches.

    ``due`` is the number of the batch that brings a row's next token, 0 if none does. A batch takes a *lane*
    from when it is formed until it has come back; a request that decodes without pause comes back with every batch of
    one lane, so its token times are a slice of the lane's clock. ``queued`` holds a row's lane.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self._clocks = [EmissionClock() for _ in range(lanes)]
        self._lane = 0
        self.clock = self._clocks[0]
        """The clock of the batch that came back last."""

    def form(self, number: int) -> None:
        """Count the granted tokens as computed: those of batch ``number`` (from 1), which is on its way now."""
        self.computed += self.grant
        self.due[(self.grant > 0) & (self.computed == self.target)] = number

    def emit(self, number: int, lane: int, end_ns: int) -> tuple[Int64Array, int]:
        """Batch ``number`` is back: give its rows their tokens; return rows that are done, and the tokens."""
        emitted = self.due == number
        self._lane, self.clock = lane, self._clocks[lane]
        self.clock.append(end_ns)
        self._track_lane(emitted)
        self.target += emitted
        self.due[emitted] = 0
        finished = (emitted & (self.target == self.total)).nonzero()[0]
        return finished, int(np.count_nonzero(emitted))

    def trim_clock(self) -> None:
        """Let the lane's clock forget what no running request needs."""
        emitting = self.since[(self.since >= 0) & (self.queued == self._lane)]
        self.clock.forget_before(int(emitting.min()) if emitting.size else self.clock.count)

    def _track_lane(self, emitted: NDArray[np.bool_]) -> None:
        """Begin and end the rows' slices of the lane's clock."""
        last = self.clock.count - 1
        in_lane = (self.since >= 0) & (self.queued == self._lane)
        changed = (emitted != in_lane).nonzero()[0]
        for row in changed.tolist():
            if in_lane[row]:
                self._close_segment(row, last)
                continue
            if self.since[row] >= 0:
                self._close_segment(row, self._clock_of(row).count)
            self.since[row], self.queued[row] = last, self._lane

    def _clock_of(self, row: int) -> EmissionClock:
        return self._clocks[int(self.queued[row])]


class PipelineScheduler(Scheduler):
    """Forms the batches of an instance with ``stages`` pipeline stages.

    ``schedule`` may be called until as many batches as stages are formed and not complete; ``complete`` accounts for
    the oldest of them.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        kv_cache: KvCache,
        stages: int,
        *,
        hands_over: bool = False,
        may_admit: Callable[[Request], bool] | None = None,
    ) -> None:
        super().__init__(settings, kv_cache, hands_over=hands_over, may_admit=may_admit)
        self._table: PipelineTable = PipelineTable(stages)
        self._formed = 0
        self._on_the_way: deque[tuple[int, int]] = deque()
        """(number, lane) of the batches that are formed and not complete, oldest first."""
        self._free_lanes = list(reversed(range(stages)))
        self._preempted_due: dict[int, list[Request]] = {}

    def schedule(self, now_ns: int) -> Batch | None:
        """Form the next batch, of tokens that need none that is on its way."""
        batch = super().schedule(now_ns)
        if batch is not None:
            self._formed += 1
            self._table.form(self._formed)
            # the lane that was freed last: whoever came back with it goes on in it
            self._on_the_way.append((self._formed, self._free_lanes.pop()))
        return batch

    def complete(self, end_ns: int) -> IterationOutcome:
        """Account for the oldest batch on its way, which has come back at ``end_ns``."""
        number, lane = self._on_the_way[0]
        outcome = super().complete(end_ns)
        self._on_the_way.popleft()
        self._free_lanes.append(lane)
        late = self._preempted_due.pop(number, None)
        return outcome if late is None else self._with_late(outcome, late, end_ns)

    def _with_late(self, outcome: IterationOutcome, late: list[Request], end_ns: int) -> IterationOutcome:
        """Give requests that were preempted the tokens that were on their way."""
        finished, handed_over = list(outcome.finished), list(outcome.handed_over)
        for request in late:
            request.token_time_parts.append(np.array([end_ns], dtype=np.int64))
            request.generated += 1
            if request.generated == request.output_tokens:
                self._leave_waiting(request, RequestState.FINISHED)
                request.end_ns = end_ns
                finished.append(request)
            elif self._hands_over:
                self._leave_waiting(request, RequestState.TRANSFERRING)
                handed_over.append(request)
        return IterationOutcome(finished, handed_over, outcome.generated_tokens + len(late))

    def _prefills_after(self, grants: Int64Array | None) -> tuple[Int64Array, Int64Array, NDArray[np.bool_]]:
        """What is on its way counts as computed already."""
        del grants
        return super()._prefills_after(None)

    def _plan_batch(self) -> int:
        """A pass that only preempted is not repeated while a batch is on its way: the next may use the room."""
        return self._plan() if self._on_the_way else super()._plan_batch()

    def _finish_rows(self, end_ns: int) -> tuple[Int64Array, int]:
        number, lane = self._on_the_way[0]
        return self._table.emit(number, lane, end_ns)

    def _grant(self, among: NDArray[np.bool_] | None, budget: int) -> int:
        """Grant tokens to rows that do not wait for one."""
        wanting = self._table.computed < self._table.target
        if np.count_nonzero(wanting) < len(self._table):
            among = wanting if among is None else among & wanting
        return super()._grant(among, budget)

    def _admissible(self, request: Request, budget: int) -> int:
        if self._preempted_due and any(request in late for late in self._preempted_due.values()):
            return 0
        return super()._admissible(request, budget)

    def _preempt(self, row: int) -> int:
        if number := int(self._table.due[row]):
            self._preempted_due.setdefault(number, []).append(self._table.requests[row])
        return super()._preempt(row)

"""Scheduling with speculative decoding, by vLLM V1's rule: drafts are tokens that a request has not computed yet.

A request that has emitted a token gets drafts. Its next iteration is granted the tokens it lacks and its drafts,
fewer where the token budget ends, and verifies them. Those before the first rejected one are kept, and one token that
needs no draft; the computed tokens fall back to what was kept, the KV blocks stay. A request that gives way to another
loses its drafts. Not as in vLLM: drafts that would go beyond a request's last token are not made.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference_serving.kv_cache import KvCache
from inference_serving.request import AttentionWork, Batch, Int64Array, Request
from inference_serving.running_table import RunningTable
from inference_serving.scheduler import Scheduler
from inference_serving.settings import SchedulerSettings
from inference_serving.speculation.drafts import DraftStatistics


@dataclass(slots=True)
class SpeculativeBatch(Batch):
    """A batch in which some rows verify drafts: ``drafts`` of each row's grant, shape as the grants."""

    drafts: Int64Array = field(kw_only=True)

    @property
    def logit_rows(self) -> int:
        """One for each sequence, and one for each draft."""
        return self.sequences + int(np.add.reduce(self.drafts))

    @property
    def draft_steps(self) -> int:
        """Drafts of the row that has most: a draft model makes those of all rows together, one after the other."""
        return int(self.drafts.max())

    def prefill_chunks(self) -> tuple[Int64Array, Int64Array]:
        """Chunk lengths and the tokens already cached before them, of the rows that run a chunk without drafts."""
        chunks = (self.grants > 1) & (self.drafts == 0)
        return self.grants[chunks], self.context[chunks]

    def attention(self) -> AttentionWork:
        """Rows with drafts are priced as decodes beside a chunk, for which the longest of them stands if there is none.

        Kernels read a row's KV once for all its queries, whether they are one or a few, and run them in one launch
        for all rows; what they differ in is whether any row has more than one query.
        """
        chunks = (self.grants > 1) & (self.drafts == 0)
        if not np.count_nonzero(chunks):
            chunks[np.where(self.drafts > 0, self.context, -1).argmax()] = True
        decodes = (self.grants > 0) & ~chunks
        return self.grants[chunks], self.context[chunks], (self.context + self.grants)[decodes]


class SpeculativeTable(RunningTable):
    """Running requests, with the drafts that wait to be verified: ``drafts``, one entry a row.

    A row emits several tokens at a time, so that their times are no slice of the clock, but kept for each row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drafts: Int64Array = np.zeros(0, dtype=np.int64)
        self._emitted_ns: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))

    def append(self, request: Request, grant: int = 0) -> None:
        """Add a request as the last row; it has no drafts before it has emitted a token here."""
        super().append(request, grant)
        self.drafts = np.append(self.drafts, 0)

    def granted_drafts(self) -> Int64Array:
        """Drafts that the coming or running iteration verifies: what is granted beyond the tokens known."""
        drafts: Int64Array = np.maximum(self.grant - (self.target - self.computed), 0)
        return drafts

    def finish_verification(
        self, end_ns: int, accepted: Int64Array, num_tokens: int
    ) -> tuple[Int64Array, int]:
        """As :meth:`finish_iteration`, with the drafts ``accepted`` of each row; new drafts are ``num_tokens``."""
        lacking = self.target - self.computed
        emits = self.grant >= lacking  # a row without a grant lacks a token at least
        emitted = np.where(emits, accepted + 1, 0)
        self.computed += np.minimum(self.grant, lacking) + accepted
        self.target += emitted
        self.drafts = np.where(emits, np.clip(self.total - self.target - 1, 0, num_tokens), self.drafts)
        self.clock.append(end_ns)
        for request, tokens in zip(self.requests, emitted.tolist(), strict=True):
            if tokens:
                self._emitted_ns[request.request_id].extend((end_ns,) * tokens)
        finished = (self.target == self.total).nonzero()[0]
        return finished, int(np.add.reduce(emitted))

    def _cut(self, rows: list[int]) -> None:
        super()._cut(rows)
        self.drafts = np.delete(self.drafts, rows)

    def _close_segment(self, row: int, stop: int) -> None:
        del stop
        request = self.requests[row]
        if times_ns := self._emitted_ns.pop(request.request_id, None):
            request.token_time_parts.append(np.array(times_ns, dtype=np.int64))


class SpeculativeScheduler(Scheduler):
    """Forms the batches of one instance that speculates; ``rng`` decides which drafts are accepted."""

    def __init__(
        self,
        settings: SchedulerSettings,
        kv_cache: KvCache,
        rng: np.random.Generator,
        *,
        may_admit: Callable[[Request], bool] | None = None,
    ) -> None:
        super().__init__(settings, kv_cache, may_admit=may_admit)
        if settings.speculation is None:
            raise ValueError("settings.speculation says how many drafts there are; it is None")
        self.draft_statistics: DraftStatistics = DraftStatistics()
        self._speculation = settings.speculation
        self._rng = rng
        self._table: SpeculativeTable = SpeculativeTable()

    def schedule(self, now_ns: int) -> Batch | None:
        """Form the next batch, or return None if no request can run a token now."""
        table = self._table
        table.target += table.drafts  # while batches are planned, drafts are known tokens
        batch = super().schedule(now_ns)
        table.target -= table.drafts
        if batch is None:
            return None
        drafts = table.granted_drafts()
        if not np.count_nonzero(drafts):
            return batch
        return SpeculativeBatch(
            batch.grants,
            batch.context,
            batch.total_tokens,
            batch.prompt_tokens,
            batch.sequences,
            drafts=drafts,
        )

    def _finish_rows(self, end_ns: int) -> tuple[Int64Array, int]:
        drafts = self._table.granted_drafts()
        accepted = self._accepted(drafts) if np.count_nonzero(drafts) else drafts
        return self._table.finish_verification(end_ns, accepted, self._speculation.num_tokens)

    def _accepted(self, drafts: Int64Array) -> Int64Array:
        """How many of each row's ``drafts`` are accepted: as many as come before the first one that is not."""
        rows = drafts.nonzero()[0]
        draws = self._rng.random((len(rows), self._speculation.num_tokens))
        passes: NDArray[np.bool_] = draws < self._speculation.acceptance_rate
        runs = np.logical_and.accumulate(passes, axis=1).sum(axis=1)
        accepted = np.zeros_like(drafts)
        accepted[rows] = np.minimum(runs, drafts[rows])
        statistics = self.draft_statistics
        statistics.verifications += len(rows)
        statistics.draft_tokens += int(np.add.reduce(drafts))
        statistics.accepted_tokens += int(np.add.reduce(accepted))
        return accepted

    def _preempt(self, row: int) -> int:
        """Drafts of a request that gives way are lost."""
        table = self._table
        table.target[row] -= table.drafts[row]
        return super()._preempt(row)

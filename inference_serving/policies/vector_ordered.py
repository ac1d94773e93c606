"""Orders that change as time goes by, computed for all jobs at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from inference_serving.policies.options import PolicyOptions
from inference_serving.policies.ordered import OrderedPolicy
from inference_serving.policies.prefill import CostModel, PrefillJob

Floats = NDArray[np.float64]
_COLUMNS = 4


class VectorOrderedPolicy(OrderedPolicy):
    """Serves jobs by ascending :meth:`scores`, ties by arrival.

    ``order``, ``arrival_ns``, ``isolated_ns`` and ``remaining_ns`` are columns with one entry a job.
    """

    timed = True

    def __init__(self, costs: CostModel, options: PolicyOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        self._jobs: list[PrefillJob] = []
        self._row: dict[int, int] = {}
        self._data = np.zeros((_COLUMNS, 64))
        self._bind()

    def scores(self, now_ns: int) -> Floats:
        """Where each job stands in line, shape ``[jobs]``, the smallest first; a subclass says so."""
        raise NotImplementedError

    def in_order(self, now_ns: int) -> Iterable[PrefillJob]:
        """All unfinished jobs, first things first."""
        jobs = self._jobs
        return (jobs[row] for row in np.lexsort((self.order, self.scores(now_ns))).tolist())

    def _bind(self) -> None:
        self.order, self.arrival_ns, self.isolated_ns, self.remaining_ns = self._data[:, : len(self._jobs)]

    def _insert(self, job: PrefillJob, now_ns: int) -> None:
        super()._insert(job, now_ns)
        row = len(self._jobs)
        if row == self._data.shape[1]:
            self._data = np.concatenate([self._data, np.zeros_like(self._data)], axis=1)
        self._data[:, row] = (job.order, job.arrival_ns, job.isolated_ns, job.remaining_ns)
        self._row[job.order] = row
        self._jobs.append(job)
        self._bind()

    def _remove(self, job: PrefillJob) -> None:
        super()._remove(job)
        row, last = self._row.pop(job.order), self._jobs.pop()
        if last is not job:  # the last row fills the gap
            self._data[:, row] = self._data[:, len(self._jobs)]
            self._jobs[row] = last
            self._row[last.order] = row
        self._bind()

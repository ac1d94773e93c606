"""Who was overtaken by how much, and whether one more overtaking is within everybody's budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_serving.policies.prefill import Chunk, PrefillJob

Floats = NDArray[np.float64]
_ROWS = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """A job may lose ``beta`` of its own isolated time and ``sigma`` of the time since its arrival.

    Predicted times are divided by ``margin`` wherever too large a one would break somebody's bound.
    """

    beta: float
    sigma: float
    margin: float = 1.0


class OvertakeLedger:
    """Overtake charges of the unfinished jobs of one instance, in order of arrival.

    The charge O_i of a job is the time that the instance has spent on later arrivals since the job arrived.
    A batch of cost T charges an earlier arrival i with T minus the planned costs of the batch's chunks that
    arrived no later than i (never less than 0). All vectors have one entry a job, by arrival.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._jobs: list[PrefillJob] = []
        self._data = np.zeros((_ROWS, 64))
        self._bind()

    def _bind(self) -> None:
        self._order, self._arrival_ns, self._isolated_ns, self._charge_ns = self._data[:, : len(self._jobs)]

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: PrefillJob) -> None:
        """Watch a job."""
        at = int(np.searchsorted(self._order, job.order))
        count = len(self._jobs)
        if count == self._data.shape[1]:
            self._data = np.concatenate([self._data, np.zeros_like(self._data)], axis=1)
        self._data[:, at + 1 : count + 1] = self._data[:, at:count].copy()
        self._data[:, at] = (
            job.order,
            job.arrival_ns,
            job.isolated_ns / self._budget.margin,
            job.overtaken_ns,
        )
        self._jobs.insert(at, job)
        self._bind()

    def remove(self, job: PrefillJob) -> None:
        """Forget a job; its charge stays in ``job.overtaken_ns``."""
        at = int(np.searchsorted(self._order, job.order))
        job.overtaken_ns = int(self._charge_ns[at])
        del self._jobs[at]
        self._data[:, at : len(self._jobs)] = self._data[:, at + 1 : len(self._jobs) + 1].copy()
        self._bind()

    def set_isolated(self, job: PrefillJob, isolated_ns: float) -> None:
        """Take this as the isolated time that a job's budget is a share of, whatever was predicted."""
        self._isolated_ns[np.searchsorted(self._order, job.order)] = isolated_ns

    def delays_ns(self, chunks: Sequence[Chunk], cost_ns: float) -> Floats:
        """What a batch of these chunks and this cost charges to each job that arrived before its latest.

        The vector covers the jobs in front of the latest one only.
        """
        places = self._places(chunks)
        front = max(places)
        delays_ns = np.full(front, float(cost_ns))
        if len(chunks) > 1:
            covered_ns = np.zeros(front)
            for place, chunk in zip(places, chunks, strict=True):
                if place < front:
                    covered_ns[place] = chunk.planned_ns / self._budget.margin
            np.maximum(delays_ns - np.cumsum(covered_ns), 0.0, out=delays_ns)
        return delays_ns

    def violator(self, chunks: Sequence[Chunk], cost_ns: float, now_ns: int, reserve: float) -> int | None:
        """Position of the earliest job whose budget the batch would overdraw, or None.

        A job outside the batch must keep ``reserve`` of its isolated time in hand.
        """
        delays_ns = self.delays_ns(chunks, cost_ns)
        front = len(delays_ns)
        if front == 0:
            return None
        left_ns = self.left_ns(now_ns)[:front] - delays_ns
        if reserve:
            kept = reserve * self._isolated_ns[:front]
            kept[[place for place in self._places(chunks) if place < front]] = 0.0
            left_ns -= kept
        first = int(np.argmax(left_ns < 0))
        return first if left_ns[first] < 0 else None

    def left_ns(self, now_ns: int) -> Floats:
        """Budget that each job has left at ``now_ns``."""
        budget = self._budget
        left: Floats = (
            budget.beta * self._isolated_ns + budget.sigma * (now_ns - self._arrival_ns) - self._charge_ns
        )
        return left

    def _places(self, chunks: Sequence[Chunk]) -> list[int]:
        """Positions of the chunks' jobs."""
        found: list[int] = np.searchsorted(self._order, [chunk.job.order for chunk in chunks]).tolist()
        return found

    def charge(self, chunks: Sequence[Chunk], cost_ns: float) -> None:
        """Charge a batch that has run and took ``cost_ns``."""
        delays_ns = self.delays_ns(chunks, cost_ns)
        self._charge_ns[: len(delays_ns)] += delays_ns

    def job_at(self, position: int) -> PrefillJob:
        """The job at a position in order of arrival."""
        return self._jobs[position]

    def up_to(self, position: int) -> Sequence[PrefillJob]:
        """The jobs that arrived no later than the one at ``position``, in order of arrival."""
        return self._jobs[: position + 1]

"""Each request's share of the energy of the iterations it was in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from inference_serving.power.iteration_work import FloatArray
from inference_serving.request import Batch, Int64Array, Request

Lane = tuple[int, int]
"""An instance, and which of its iterations under way."""


class _Rows:
    """The requests of an instance's iteration in flight, and what each has had since they last changed.

    While the same requests decode, each runs one token an iteration: one number is enough for all.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.numbers: Int64Array = np.empty(0, dtype=np.int64)
        self.each_j = 0.0


class RequestEnergy:
    """Splits each iteration's energy between its requests by their tokens in it."""

    def __init__(self) -> None:
        self._rows: defaultdict[Lane, _Rows] = defaultdict(_Rows)
        self._energy_j: FloatArray = np.zeros(64)

    def start(self, lane: Lane, running: Sequence[Request]) -> None:
        """Remember who is in an iteration; the same requests as last time cost one comparison of lists."""
        rows = self._rows[lane]
        if rows.requests == running:
            return
        self._pay_out(rows)
        rows.requests = list(running)
        rows.numbers = np.array([request.request_id for request in running], dtype=np.int64)
        self._reach(int(rows.numbers.max(initial=0)))

    def end(self, lane: Lane, batch: Batch, energy_j: float) -> None:
        """Share out what an iteration has used; rows of the batch are those given to :meth:`start`."""
        rows = self._rows[lane]
        per_token_j = energy_j / batch.total_tokens
        if batch.total_tokens == batch.sequences == len(batch.grants):
            rows.each_j += per_token_j
        else:
            self._energy_j[rows.numbers] += batch.grants * per_token_j

    def by_request_j(self) -> FloatArray:
        """Joules so far by request id; ids beyond the end have had nothing."""
        for rows in self._rows.values():
            self._pay_out(rows)
        return self._energy_j.copy()

    def _pay_out(self, rows: _Rows) -> None:
        if rows.each_j:
            self._energy_j[rows.numbers] += rows.each_j
            rows.each_j = 0.0

    def _reach(self, number: int) -> None:
        if number >= len(self._energy_j):
            self._energy_j = np.concatenate([self._energy_j, np.zeros(number + 1)])

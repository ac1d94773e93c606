"""The running requests of one instance as a few arrays, so that an iteration costs no loop over requests."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from inference_serving.request import Int64Array, Request

_COLUMNS = 7
_TRIM_EVERY = 4096


class EmissionClock:
    """End times of an instance's iterations, kept only as long as a running request may need them."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0
        self._ends = array("q")

    def append(self, end_ns: int) -> None:
        """Record the end of iteration number ``count``."""
        self._ends.append(end_ns)
        self.count += 1

    def times_ns(self, start: int, stop: int) -> Int64Array:
        """End times of iterations ``start`` to ``stop - 1``."""
        return np.array(self._ends[start - self._first : stop - self._first], dtype=np.int64)

    def forget_before(self, iteration: int) -> None:
        """Drop the times that no request will ask for; called now and then, keeps memory flat."""
        if iteration - self._first >= _TRIM_EVERY:
            del self._ends[: iteration - self._first]
            self._first = iteration


class RunningTable:
    """Rows of running requests in running order.

    Columns (int64, one entry a row): ``computed`` tokens with KV, ``target`` tokens known (a row needs
    ``target - computed`` tokens of compute), ``total`` tokens at the end, ``prompt`` tokens, ``blocks``
    held, ``since``: the iteration from which the row has emitted a token every time (-1: none), and
    ``grant``: tokens that the row runs in the coming iteration.
    A request that decodes without pause emits at the end of every iteration, so its token times are a
    slice of the instance's :class:`EmissionClock`, and no work is done per token.
    """

    def __init__(self) -> None:
        self.clock = EmissionClock()
        self.requests: list[Request] = []
        self._data = np.zeros((_COLUMNS, 64), dtype=np.int64)
        self._bind()

    def _bind(self) -> None:
        view = self._data[:, : len(self.requests)]
        self.computed, self.target, self.total, self.prompt, self.blocks, self.since, self.grant = view

    def __len__(self) -> int:
        return len(self.requests)

    def append(self, request: Request) -> None:
        """Add a request as the last row; ``request.blocks`` is what it holds now."""
        row = len(self.requests)
        if row == self._data.shape[1]:
            self._data = np.concatenate([self._data, np.zeros_like(self._data)], axis=1)
        self.requests.append(request)
        self._data[:, row] = (
            request.computed,
            request.num_tokens,
            request.total_tokens,
            request.prompt_tokens,
            request.blocks,
            -1,
            0,
        )
        self._bind()

    def remove(self, rows: Int64Array | list[int]) -> list[Request]:
        """Take rows out, write their progress back to the requests, and return these in row order."""
        leaving = []
        for row in rows:
            request = self.requests[row]
            self._close_segment(int(row), self.clock.count)
            request.computed = int(self.computed[row])
            request.generated = int(self.target[row] - self.prompt[row])
            request.blocks = int(self.blocks[row])
            leaving.append(request)
        keep = np.ones(len(self.requests), dtype=bool)
        keep[rows] = False
        kept = self._data[:, : len(self.requests)][:, keep]
        self._data[:, : kept.shape[1]] = kept
        gone = set(map(int, rows))
        self.requests = [request for row, request in enumerate(self.requests) if row not in gone]
        self._bind()
        return leaving

    def finish_iteration(self, end_ns: int) -> tuple[Int64Array, int]:
        """Advance every granted row; return the rows that emitted their last token, and the tokens emitted.

        A row that has computed all its known tokens emits one more.
        """
        self.clock.append(end_ns)
        self.computed += self.grant
        emitted = (self.computed == self.target) & (self.grant > 0)
        self.target += emitted
        self._track_segments(emitted)
        finished = np.flatnonzero(emitted & (self.target == self.total))
        return finished, int(np.count_nonzero(emitted))

    def emitted_rows(self) -> Int64Array:
        """Rows that emitted a token at the end of the last iteration."""
        return np.flatnonzero(self.since >= 0)

    def _track_segments(self, emitted: NDArray[np.bool_]) -> None:
        last = self.clock.count - 1
        emitting_before = self.since >= 0
        if np.array_equal(emitted, emitting_before):
            return
        for row in np.flatnonzero(emitting_before & ~emitted):
            self._close_segment(int(row), last)
        self.since[emitted & ~emitting_before] = last

    def _close_segment(self, row: int, stop: int) -> None:
        start = int(self.since[row])
        if 0 <= start < stop:
            self.requests[row].token_time_parts.append(self.clock.times_ns(start, stop))
        self.since[row] = -1

    def trim_clock(self) -> None:
        """Let the clock forget what no running request needs."""
        emitting = self.since[self.since >= 0]
        self.clock.forget_before(int(emitting.min()) if emitting.size else self.clock.count)

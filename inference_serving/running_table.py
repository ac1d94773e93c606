"""The running requests of one instance as a few arrays, so that an iteration costs no loop over requests."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from inference_serving.request import Int64Array, Request

_COLUMNS = 9
_TRIM_EVERY = 4096
_NEVER = np.array(-1, dtype=np.int64)  # numpy takes three times as long to compare with a Python int


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
    ``grant``: tokens that the row runs in the coming iteration. Where batches are formed ahead, ``due``
    says whether the row emits at the end of the running iteration, ``queued`` at the end of the next.
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
        self.computed, self.target, self.total, self.prompt, self.blocks, self.since, self.grant = view[:7]
        self.due, self.queued = view[7:]

    def __len__(self) -> int:
        return len(self.requests)

    def append(self, request: Request, grant: int = 0) -> None:
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
            grant,
            0,
            0,
        )
        self._bind()

    def remove(self, rows: Int64Array | list[int]) -> list[Request]:
        """Take rows out, write their progress back to the requests, and return these in row order."""
        leaving = []
        for row in rows:
            request = self.requests[row]
            self._close_segment(int(row), self._clock_of(int(row)).count)
            request.computed = int(self.computed[row])
            request.generated = int(self.target[row] - self.prompt[row])
            request.blocks = int(self.blocks[row])
            leaving.append(request)
        self._cut(sorted(map(int, rows)))
        self._bind()
        return leaving

    def _cut(self, rows: list[int]) -> None:
        """Close the gaps that leaving rows (ascending) make; a few short moves are cheaper than a mask."""
        requests, data = self.requests, self._data
        for row in reversed(rows):
            data[:, row : len(requests) - 1] = data[:, row + 1 : len(requests)]
            del requests[row]

    def finish_iteration(self, end_ns: int) -> tuple[Int64Array, int]:
        """Advance every granted row; return the rows that emitted their last token, and the tokens emitted.

        A row that has computed all its known tokens emits one more.
        """
        emitted = self.advance()
        self.clock.append(end_ns)
        self._track_segments(emitted)
        finished = (self.target == self.total).nonzero()[0]
        return finished, int(np.count_nonzero(emitted))

    def advance(self) -> NDArray[np.bool_]:
        """Count the granted tokens as computed and what they emit as known; return the rows that emit."""
        self.computed += self.grant
        emitted: NDArray[np.bool_] = (
            self.computed == self.target
        )  # a row without a grant lacks a token at least
        self.target += emitted
        return emitted

    def emit_due(self, end_ns: int) -> tuple[Int64Array, int]:
        """As :meth:`finish_iteration`, for rows that were advanced when their batch was formed."""
        emitted = self.due > 0
        self.clock.append(end_ns)
        self._track_segments(emitted)
        self.due[:] = 0
        finished = (emitted & (self.queued == 0) & (self.target == self.total)).nonzero()[0]
        return finished, int(np.count_nonzero(emitted))

    def emitted_rows(self) -> Int64Array:
        """Rows that emitted a token at the end of the last iteration."""
        rows: Int64Array = (self.since > _NEVER).nonzero()[0]
        return rows

    def _track_segments(self, emitted: NDArray[np.bool_]) -> None:
        last = self.clock.count - 1
        changed = emitted != (self.since > _NEVER)
        for row in changed.nonzero()[0].tolist():
            if emitted[row]:
                self.since[row] = last
            else:
                self._close_segment(row, last)

    def _close_segment(self, row: int, stop: int) -> None:
        start = int(self.since[row])
        if 0 <= start < stop:
            self.requests[row].token_time_parts.append(self._clock_of(row).times_ns(start, stop))
        self.since[row] = -1

    def _clock_of(self, row: int) -> EmissionClock:
        """The clock that a row's token times are taken from."""
        return self.clock

    def trim_clock(self) -> None:
        """Let the clock forget what no running request needs."""
        emitting = self.since[self.since >= 0]
        self.clock.forget_before(int(emitting.min()) if emitting.size else self.clock.count)

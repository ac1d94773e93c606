"""Which channels of a memory that computes have the KV of which running request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from inference_serving.request import Batch, Int64Array, Request


class KvChannels:
    """Gives each request a group of channels when it first runs, which it keeps: KV stays where it was written.

    The group is the one whose requests have the fewest tokens then, a request's whole prompt included.
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._running: list[Request] = []
        self._group_of: dict[int, int] = {}
        self._rows: Int64Array = np.empty(0, dtype=np.int64)

    def place(self, batch: Batch, running: Sequence[Request]) -> Batch:
        """The batch with the group of each of its rows, which are those of ``running``."""
        if self._running != running:
            self._settle(running)
        return replace(batch, kv_groups=self._rows)

    def _settle(self, running: Sequence[Request]) -> None:
        """Forget who has left (a preempted request has lost its KV), and place who is new."""
        tokens = [0] * self._groups
        kept = {
            one.request_id: group
            for one in running
            if (group := self._group_of.get(one.request_id)) is not None
        }
        for request in running:
            if request.request_id in kept:
                tokens[kept[request.request_id]] += request.num_tokens
        for request in running:
            if request.request_id not in kept:
                group = tokens.index(min(tokens))
                kept[request.request_id] = group
                tokens[group] += request.num_tokens
        self._group_of, self._running = kept, list(running)
        self._rows = np.array([kept[request.request_id] for request in running], dtype=np.int64)

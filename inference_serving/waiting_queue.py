"""Requests that wait for an instance, always in the policy's order."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from inference_serving.policies.base import SchedulingPolicy, SortKey
from inference_serving.request import Request


class WaitingQueue:
    """A list of requests kept sorted by the policy's key, ties by the order in which they arrived here.

    A preempted request keeps its place in that order, so under FCFS it goes back to the head, as in vLLM.
    """

    def __init__(self, policy: SchedulingPolicy) -> None:
        self._policy = policy
        self._entries: list[tuple[SortKey, int, Request]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (entry[2] for entry in self._entries)

    def add(self, request: Request) -> None:
        """Queue a request that has just reached the instance."""
        request.enqueue_order = self._arrivals
        self._arrivals += 1
        self.put_back(request)

    def put_back(self, request: Request) -> None:
        """Queue a preempted request again, at its old place in the order."""
        insort(self._entries, (self._policy.waiting_key(request), request.enqueue_order, request))

    def pop(self, index: int) -> Request:
        """Take out the request at ``index``."""
        return self._entries.pop(index)[2]

    def remove(self, request: Request) -> None:
        """Take out a request that does not wait any more."""
        self._entries = [entry for entry in self._entries if entry[2] is not request]

    def __getitem__(self, index: int) -> Request:
        return self._entries[index][2]

"""Priority order: smaller numbers first, as in vLLM's priority scheduling."""

from __future__ import annotations

from collections.abc import Sequence

from inference_serving.policies.base import SortKey
from inference_serving.request import Request


class Priority:
    """Admit by (priority, arrival); preempt the running request that comes last in that order."""

    def waiting_key(self, request: Request) -> SortKey:
        """Priority first (smaller goes first), then arrival."""
        return (request.priority, request.arrival_ns, request.enqueue_order)

    def victim(self, running: Sequence[Request]) -> int:
        """The running request with the largest (priority, arrival)."""
        return max(range(len(running)), key=lambda row: self.waiting_key(running[row]))

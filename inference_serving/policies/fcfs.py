"""First come, first served: vLLM's default order."""

from __future__ import annotations

from collections.abc import Sequence

from inference_serving.policies.base import SortKey
from inference_serving.request import Request


class FirstComeFirstServed:
    """Admit in arrival order; preempt the request that was admitted last."""

    def waiting_key(self, request: Request) -> SortKey:
        """Order in which requests reached the instance."""
        return (request.enqueue_order,)

    def victim(self, running: Sequence[Request]) -> int:
        """The tail of the running list."""
        return len(running) - 1

"""What a router may look at: the load of an instance, and the prefill work that it has before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from inference_serving.request import Request


class QueuedPrefill(NamedTuple):
    """A prompt that an instance has not finished: its predicted time alone, and the part still to run, in ns."""

    isolated_ns: int
    remaining_ns: int


class RoutingTarget(Protocol):
    """One instance, read only. Predicted times are computed when asked for, and only then."""

    instance_id: int

    @property
    def unfinished_requests(self) -> int:
        """Requests that were sent to the instance and have not left it."""
        ...

    def cached_tokens(self, request: Request) -> int:
        """Tokens of a request that has not started whose KV the instance has already; 0 without prefix caching."""
        ...

    def predict_ns(self, request: Request) -> int:
        """Predicted prefill time of a request alone on the instance."""
        ...

    def prefill_queue(self) -> Sequence[QueuedPrefill]:
        """Prompts that the running iteration will leave unfinished, in no order."""
        ...

    def residual_ns(self, now_ns: int) -> int:
        """Predicted prefill time that the running iteration still takes; 0 if none runs."""
        ...


def work_left_ns(target: RoutingTarget, now_ns: int) -> int:
    """All predicted prefill time that the instance has before it."""
    return target.residual_ns(now_ns) + sum(job.remaining_ns for job in target.prefill_queue())

"""The Protocol that every scheduling policy follows, and the registry of policy names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from inference_serving.request import Request

SortKey = tuple[int, ...]


class SchedulingPolicy(Protocol):
    """Orders the waiting requests of one instance and picks the one to preempt."""

    def waiting_key(self, request: Request) -> SortKey:
        """Sort key among waiting requests; the smallest is admitted first."""
        ...

    def victim(self, running: Sequence[Request]) -> int:
        """Index of the running request that gives its KV blocks back when a block is short."""
        ...


PolicyT = TypeVar("PolicyT", bound=Callable[[], SchedulingPolicy])

_POLICIES: dict[str, Callable[[], SchedulingPolicy]] = {}


def register_policy(name: str) -> Callable[[PolicyT], PolicyT]:
    """Class decorator that makes a policy available under ``name``."""

    def register(policy: PolicyT) -> PolicyT:
        _POLICIES[name] = policy
        return policy

    return register


def policy_names() -> list[str]:
    """Names that ``--scheduling-policy`` takes."""
    return sorted(_POLICIES)


def make_policy(name: str) -> SchedulingPolicy:
    """A new policy object; raises KeyError for a name that is not registered."""
    return _POLICIES[name]()

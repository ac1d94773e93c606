"""The Protocol that every scheduling policy follows, and the registry of policy names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from inference_serving.registry import Registry
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

POLICIES: Registry[Callable[[], SchedulingPolicy]] = Registry(
    "a scheduling policy",
    "docs/architecture.md",
    ("waiting_key", "victim"),
    {
        "fcfs": "inference_serving.policies.fcfs:FirstComeFirstServed",
        "priority": "inference_serving.policies.priority:Priority",
    },
)


def register_policy(name: str) -> Callable[[PolicyT], PolicyT]:
    """Class decorator that makes a policy available under ``name``."""
    return POLICIES.register(name)


def policy_names() -> list[str]:
    """Names of the engine policies."""
    return POLICIES.names()


def make_policy(name: str) -> SchedulingPolicy:
    """A new policy object; raises KeyError for a name that is not registered."""
    return POLICIES[name]()

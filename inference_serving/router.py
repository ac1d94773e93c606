"""Which instance serves a request: decided when it arrives, so that a policy can see the load.

A new policy is one class with a ``@register_router`` line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from inference_serving.request import Request


class RoutingTarget(Protocol):
    """What a router may look at."""

    instance_id: int

    @property
    def unfinished_requests(self) -> int:
        """Requests that were sent to the instance and have not left it."""
        ...


class Router(Protocol):
    """Picks one of the instances that can serve a request."""

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """Index of the chosen target."""
        ...


RouterFactory = Callable[[np.random.Generator], Router]
_ROUTERS: dict[str, RouterFactory] = {}
FactoryT = TypeVar("FactoryT", bound=RouterFactory)


def register_router(name: str) -> Callable[[FactoryT], FactoryT]:
    """Class decorator that makes a router available under ``name``."""

    def register(factory: FactoryT) -> FactoryT:
        _ROUTERS[name] = factory
        return factory

    return register


def router_names() -> list[str]:
    """Names that ``--request-routing-policy`` takes."""
    return sorted(_ROUTERS)


def make_router(name: str, rng: np.random.Generator) -> Router:
    """A new router; ``rng`` is its only source of chance. Raises KeyError for an unknown name."""
    return _ROUTERS[name](rng)


@register_router("RR")
class RoundRobin:
    """Instances in turn."""

    def __init__(self, rng: np.random.Generator) -> None:
        del rng
        self._next = 0

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The instance after the last one chosen."""
        del request
        chosen = self._next % len(targets)
        self._next += 1
        return chosen


@register_router("RAND")
class Random:
    """A uniformly random instance."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """Any instance, with equal chance."""
        del request
        return int(self._rng.integers(len(targets)))


@register_router("LOAD")
class LeastLoaded:
    """The instance with the fewest unfinished requests, ties by its number."""

    def __init__(self, rng: np.random.Generator) -> None:
        del rng

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The least loaded instance now."""
        del request
        return min(
            range(len(targets)),
            key=lambda index: (targets[index].unfinished_requests, targets[index].instance_id),
        )

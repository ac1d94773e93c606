"""Which instance serves a request: decided when it arrives, so that a policy can see the load.

A new policy is one class and its name in ``ROUTERS``, or a user's own class by ``module:Class``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from inference_serving.policies.options import options_of, parse_bool
from inference_serving.registry import CustomRegistry
from inference_serving.request import Request
from inference_serving.routers.session import StickySessions
from inference_serving.routers.target import RoutingTarget

_STICKY = "sticky"
"""An option of every router: later turns of a session follow the first one."""


class Router(Protocol):
    """Picks one of the instances that can serve a request."""

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """Index of the chosen target."""
        ...


RouterFactory = Callable[..., Router]
"""Takes the random generator, a router's only source of chance.

If it has an ``options_type``, a frozen dataclass, it takes ``--router-args`` in that form besides. With a true
``prefill_only`` it is not asked about decode instances, with a true ``needs_prefix_caching`` it is refused where no
instance caches prefixes.
"""
FactoryT = TypeVar("FactoryT", bound=RouterFactory)
ROUTERS: CustomRegistry[RouterFactory] = CustomRegistry(
    "a router",
    "docs/extending.md",
    ("route",),
    {
        "LOAD": f"{__name__}:LeastLoaded",
        "LWL": "inference_serving.routers.prefill:LeastWorkLeft",
        "MSC": "inference_serving.routers.prefill:MinimalSlowdownCost",
        "PREFIX": "inference_serving.routers.session:LongestPrefix",
        "RAND": f"{__name__}:Random",
        "RR": f"{__name__}:RoundRobin",
        "SITA": "inference_serving.routers.prefill:SizeInterval",
    },
)


def register_router(name: str) -> Callable[[FactoryT], FactoryT]:
    """Class decorator that makes a router available under ``name``."""
    return ROUTERS.register(name)


def router_names() -> list[str]:
    """Names that ``--request-routing-policy`` takes."""
    return ROUTERS.names()


def make_router(name: str, rng: np.random.Generator, args: Mapping[str, str] | None = None) -> Router:
    """A new router; raises ValueError that says what would be right for an unknown name or option."""
    factory, options = _find(name, args or {})
    router = factory(rng, *options)
    return StickySessions(router) if _is_sticky(args or {}) else router


def make_decode_router(name: str, rng: np.random.Generator, args: Mapping[str, str] | None = None) -> Router:
    """A new router of decode instances: LOAD where the router of this name looks at prefill work only."""
    factory, options = _find(name, args or {})
    if getattr(factory, "prefill_only", False):
        return LeastLoaded(rng)
    return factory(rng, *options)


def check_router(name: str, args: Mapping[str, str]) -> None:
    """Raise ValueError (UnknownNameError for the name) that says what would be right, without making a router."""
    _find(name, args)


def needs_prefix_caching(name: str, args: Mapping[str, str]) -> bool:
    """Whether the router has nothing to go by if no instance caches prefixes; raises ValueError like make_router."""
    return bool(getattr(_find(name, args)[0], "needs_prefix_caching", False))


def _is_sticky(args: Mapping[str, str]) -> bool:
    return parse_bool(_STICKY, args.get(_STICKY, "false"))


def _find(name: str, args: Mapping[str, str]) -> tuple[RouterFactory, list[Any]]:
    """What makes the router, and the options that it takes besides the generator: one or none."""
    _is_sticky(args)
    args = {option: value for option, value in args.items() if option != _STICKY}
    name, args = ROUTERS.unwrap(name, args)
    factory = ROUTERS.find(name)
    return factory, options_of(factory, name, args)


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


class Random:
    """A uniformly random instance."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """Any instance, with equal chance."""
        del request
        return int(self._rng.integers(len(targets)))


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

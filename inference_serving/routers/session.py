"""Routers for prompts that come back: to the instance that remembers most of them, or to that of the turn before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inference_serving.policies.options import check_range
from inference_serving.request import Request
from inference_serving.routers.target import RoutingTarget

if TYPE_CHECKING:
    from inference_serving.router import Router


@dataclass(frozen=True, slots=True)
class PrefixOptions:
    """Options of ``PREFIX``.

    Attributes:
        guard: An instance that has more than this many unfinished requests more than the least loaded one is not
            considered; 0: all are. Without it a prefix that everybody shares draws everybody to one instance.
    """

    guard: int = 8

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        check_range("guard", self.guard, 0, 1e9)


class LongestPrefix:
    """PREFIX: the instance that holds the longest cached prefix of the prompt; ties and cold prompts by load.

    Load is unfinished requests, then the instance's number. It is the idea of cache-aware routing (Zheng et al.,
    SGLang, 2024), asked of the caches themselves.
    """

    prefill_only = True
    needs_prefix_caching = True
    options_type = PrefixOptions

    def __init__(self, rng: np.random.Generator, options: PrefixOptions) -> None:
        del rng
        self._guard = options.guard

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The instance that has to compute least of the prompt now."""
        loads = [target.unfinished_requests for target in targets]
        most = min(loads) + self._guard if self._guard else max(loads)
        return min(
            (index for index, load in enumerate(loads) if load <= most),
            key=lambda index: (
                -targets[index].cached_tokens(request),
                loads[index],
                targets[index].instance_id,
            ),
        )


class StickySessions:
    """Another router, asked about the first turn of a session only; later turns go where the first one went.

    Only instances that compute prompts can be stuck to: they are who remembers prefixes.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._place_of: dict[str, int] = {}

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The session's instance, or the other router's choice."""
        session = request.session
        if session is None:
            return self._router.route(request, targets)
        if session.turn == 0:
            self._place_of[session.session_id] = self._router.route(request, targets)
        if session.is_last:
            return self._place_of.pop(session.session_id)
        return self._place_of[session.session_id]

"""Routers that know how long prefills take: least work, size intervals, and the least slowdown caused.

They choose a prefill (or colocated) instance; decode instances have no prefills to look at and are chosen by
LOAD (``prefill_only``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from inference_serving.policies.options import check_range
from inference_serving.request import Request
from inference_serving.routers.target import QueuedPrefill, RoutingTarget, work_left_ns


def _least_work(request: Request, targets: Sequence[RoutingTarget], among: Iterable[int]) -> int:
    def finish_ns(index: int) -> tuple[int, int]:
        target = targets[index]
        work_ns = work_left_ns(target, request.arrival_ns) + target.predict_ns(request)
        return work_ns, target.instance_id

    return min(among, key=finish_ns)


class LeastWorkLeft:
    """LWL: the instance with the least predicted prefill time before it, ties by its number.

    The request's own time there counts too, which matters if instances differ in speed: under FCFS this is
    the instance that computes the prompt first (Harchol-Balter et al., 1999).
    """

    prefill_only = True

    def __init__(self, rng: np.random.Generator) -> None:
        del rng

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The instance with the least work left now."""
        return _least_work(request, targets, range(len(targets)))


@dataclass(frozen=True, slots=True)
class SizeIntervalOptions:
    """Options of ``SITA``.

    Attributes:
        cutoff: Prompts of at least this many tokens are long.
        share: Share of the instances that is reserved for long prompts; of two or more instances at least
            one is for them and one is not.
    """

    cutoff: int = 4096
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        check_range("cutoff", self.cutoff, 1, 1e12)
        check_range("share", self.share, 0, 1)


class SizeInterval:
    """SITA: the last instances serve long prompts only, the others short ones only.

    Size-interval task assignment (Harchol-Balter, Crovella and Murta, 1999); inside a pool, least work left.
    """

    prefill_only = True
    options_type = SizeIntervalOptions

    def __init__(self, rng: np.random.Generator, options: SizeIntervalOptions) -> None:
        del rng
        self._options = options

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The least loaded instance of the pool that the prompt's length belongs to."""
        count = len(targets)
        if count == 1:
            return 0
        short = count - min(max(round(count * self._options.share), 1), count - 1)
        long_prompt = request.prompt_tokens >= self._options.cutoff
        return _least_work(request, targets, range(short, count) if long_prompt else range(short))


@dataclass(frozen=True, slots=True)
class SlowdownCostOptions:
    """Options of ``MSC``.

    Attributes:
        guard: An instance that has more than this many unfinished prompts of the request's size class more than
            the one with the fewest is not considered.
    """

    guard: int = 2

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        check_range("guard", self.guard, 0, 1e9)


class MinimalSlowdownCost:
    """MSC: the instance at which the request adds least to the sum of slowdowns, under shortest product first.

    With v the isolated and rem the remaining time of the request there, and j the prompts there,

        cost = (residual + sum of rem_j ahead + v) / v + v * sum of 1 / v_j behind,

    where j is ahead if ``v_j * rem_j <= v * rem`` and behind if not: the request's own slowdown, and the slowdown
    that it causes. The residual is what is left of the running iteration. Equal costs are settled by when the
    prompt would be complete, then by the instance's number. Size classes, for the guard, are powers of four
    of the isolated time.
    """

    prefill_only = True
    options_type = SlowdownCostOptions

    def __init__(self, rng: np.random.Generator, options: SlowdownCostOptions) -> None:
        del rng
        self._guard = options.guard

    def route(self, request: Request, targets: Sequence[RoutingTarget]) -> int:
        """The cheapest instance of those that the guard admits."""
        times_ns = [target.predict_ns(request) for target in targets]
        queues = [target.prefill_queue() for target in targets]
        alike = [_alike(own_ns, queue) for own_ns, queue in zip(times_ns, queues, strict=True)]
        most = min(alike) + self._guard

        def cost(index: int) -> tuple[float, float, int]:
            target, own_ns = targets[index], times_ns[index]
            wait_ns, caused = _wait_and_caused(own_ns, queues[index])
            finish_ns = target.residual_ns(request.arrival_ns) + wait_ns + own_ns
            return finish_ns / own_ns + caused, finish_ns, target.instance_id

        return min((index for index in range(len(targets)) if alike[index] <= most), key=cost)


def _wait_and_caused(own_ns: int, queue: Sequence[QueuedPrefill]) -> tuple[int, float]:
    """Time of the prompts ahead, and the slowdown caused to those behind."""
    index = own_ns * own_ns
    wait_ns, behind = 0, 0.0
    for isolated_ns, remaining_ns in queue:
        if isolated_ns * remaining_ns <= index:
            wait_ns += remaining_ns
        else:
            behind += 1 / isolated_ns
    return wait_ns, own_ns * behind


def _alike(own_ns: int, queue: Sequence[QueuedPrefill]) -> int:
    """Prompts in the same size class."""
    size = own_ns.bit_length() // 2
    return sum(job.isolated_ns.bit_length() // 2 == size for job in queue)

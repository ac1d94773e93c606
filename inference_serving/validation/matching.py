"""Which simulated request is which real one; an error if the two runs served different workloads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from astra_sim.input_error import InputError
from inference_serving.validation.run import LeftOut, Run, ServedRequest

Pair = tuple[ServedRequest, ServedRequest]
WAYS = ("id", "order", "lengths")


@dataclass(frozen=True)
class Matching:
    """Pairs (real, simulated) in order of the real run, how they were found, and who was left out."""

    how: str
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def real(self) -> tuple[ServedRequest, ...]:
        """The real requests that have a simulated one."""
        return tuple(real for real, _ in self.pairs)

    @property
    def simulated(self) -> tuple[ServedRequest, ...]:
        """Their simulated counterparts, in the same order."""
        return tuple(simulated for _, simulated in self.pairs)


def match(real: Run, simulated: Run, *, way: str = "auto", partial: bool = False) -> Matching:
    """Pair the requests of two runs whose prompt and output lengths must agree.

    Tried in turn: ``id`` (the number at the end of a name), ``order`` (of arrival), ``lengths`` (the n-th
    request of some lengths with the n-th). Requests without a partner are an error, except as many simulated
    ones as failed in the real run, and any number with ``partial``.
    """
    for name in WAYS if way == "auto" else (way,):
        pairs = {"id": _by_id, "order": _by_order, "lengths": _by_lengths}[name](
            real.requests, simulated.requests
        )
        if pairs is None:
            continue
        failed = sum(one.count for one in real.left_out)
        only_real, only_simulated = len(real.requests) - len(pairs), len(simulated.requests) - len(pairs)
        if pairs and (partial or (only_real == 0 and only_simulated <= failed)):
            left_out = (
                *real.left_out,
                *_left_out(only_real, "not in the simulation"),
                *_left_out(only_simulated, "not in the real run"),
            )
            return Matching(f"by {name}", tuple(pairs), left_out)
    raise _different(real, simulated, way)


def _left_out(count: int, why: str) -> tuple[LeftOut, ...]:
    return (LeftOut(count, why),) if count else ()


def _by_id(real: Sequence[ServedRequest], simulated: Sequence[ServedRequest]) -> list[Pair] | None:
    """Pairs of one number; None if numbers repeat, are missing, or belong to different lengths."""
    numbers, others = _numbered(real), _numbered(simulated)
    if numbers is None or others is None:
        return None
    pairs = [(one, others[number]) for number, one in numbers.items() if number in others]
    return pairs if all(one.lengths == other.lengths for one, other in pairs) else None


def _numbered(requests: Sequence[ServedRequest]) -> dict[int, ServedRequest] | None:
    found: dict[int, ServedRequest] = {}
    for request in requests:
        number = re.search(r"[0-9]+$", request.name)
        if number is None or int(number[0]) in found:
            return None
        found[int(number[0])] = request
    return found


def _by_order(real: Sequence[ServedRequest], simulated: Sequence[ServedRequest]) -> list[Pair] | None:
    """The n-th with the n-th; None if their lengths differ."""
    pairs = list(zip(real, simulated, strict=False))
    return pairs if all(one.lengths == other.lengths for one, other in pairs) else None


def _by_lengths(real: Sequence[ServedRequest], simulated: Sequence[ServedRequest]) -> list[Pair]:
    """Of the requests with the same lengths, the n-th with the n-th."""
    waiting: dict[tuple[int, int], list[ServedRequest]] = defaultdict(list)
    for request in reversed(simulated):
        waiting[request.lengths].append(request)
    return [(one, waiting[one.lengths].pop()) for one in real if waiting[one.lengths]]


def _different(real: Run, simulated: Run, way: str) -> InputError:
    ours, theirs = simulated.requests, real.requests
    if len(ours) != len(theirs):
        what = f"{len(ours)} simulated requests, but {len(theirs)} real ones in {real.file}"
        hint = "simulate the same workload, or compare what agrees with --partial"
    else:
        number, (one, other) = next(
            (
                (number, pair)
                for number, pair in enumerate(zip(theirs, ours, strict=True))
                if pair[0].lengths != pair[1].lengths
            ),
            (0, (theirs[0], ours[0])),
        )
        what = (
            f"request {number} (in order of arrival) has {other.prompt_tokens} prompt and {other.output_tokens} "
            f"output tokens, but {one.prompt_tokens} and {one.output_tokens} in {real.file}"
        )
        hint = "simulate the same workload"
    tried = "by id, order or lengths" if way == "auto" else f"by {way}"
    return InputError(simulated.file, "", f"cannot be matched {tried}: {what}; {hint}")

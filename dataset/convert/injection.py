"""Long prompts for traces that have none, and classes for all requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataset.generate import Sampler, positive_number, whole_number, wrong_value
from dataset.workload import LONG, SHORT, WorkloadRequest

_WANTED = "FRACTION:TOKENS[,FRACTION:TOKENS...] with fractions above 0 that sum up to 1 at most"


@dataclass(frozen=True, slots=True)
class Share:
    """Long prompts of ``tokens`` tokens, ``fraction`` of the number of a trace's requests."""

    fraction: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Streams:
    """A random stream for each thing that is drawn, so that one does not move the other."""

    which: np.random.Generator
    when: np.random.Generator
    outputs: np.random.Generator


def shares(text: str) -> tuple[Share, ...]:
    """Parse ``--inject-long``."""
    parsed = []
    for part in text.split(","):
        fraction, colon, tokens = part.partition(":")
        if not colon:
            raise wrong_value(text, _WANTED)
        parsed.append(
            Share(positive_number(fraction), whole_number(tokens, "a number of tokens, at least 1"))
        )
    if sum(share.fraction for share in parsed) > 1:
        raise wrong_value(text, _WANTED)
    return tuple(parsed)


def inject(
    requests: Sequence[WorkloadRequest], longs: Sequence[Share], output: Sampler, *, add: bool, rng: Streams
) -> list[WorkloadRequest]:
    """Put long prompts among ``requests`` (sorted by arrival): each is chosen with the shares' probabilities.

    A chosen request is replaced by a long one that arrives at its time, or, with ``add``, stays, and a long
    one arrives at any time between the first and the last. Longs share no block with anybody.
    """
    limits = np.cumsum([share.fraction for share in longs])
    draws = np.searchsorted(limits, rng.which.random(len(requests)), side="right")
    chosen = np.flatnonzero(draws < len(longs))
    sizes = [longs[draws[place]].tokens for place in chosen.tolist()]
    outputs = output(rng.outputs, len(chosen)).tolist()
    if add:
        first_ns, last_ns = requests[0].arrival_ns, requests[-1].arrival_ns
        times_ns = rng.when.integers(first_ns, last_ns, len(chosen), endpoint=True).tolist()
    else:
        times_ns = [requests[place].arrival_ns for place in chosen.tolist()]
    made = [WorkloadRequest(*one, LONG) for one in zip(times_ns, sizes, outputs, strict=True)]
    if add:
        return sorted([*requests, *made], key=lambda request: request.arrival_ns)
    merged = list(requests)
    for place, request in zip(chosen.tolist(), made, strict=True):
        merged[place] = request
    return merged


def with_fresh_blocks(requests: Sequence[WorkloadRequest], block_toks: int) -> list[WorkloadRequest]:
    """Give blocks that nobody else has to the requests that have none."""
    unused = 1 + max((max(request.blocks, default=0) for request in requests if request.blocks), default=-1)
    completed = []
    for request in requests:
        if request.blocks is None:
            count = -(-request.input_toks // block_toks)
            completed.append(replace(request, blocks=tuple(range(unused, unused + count))))
            unused += count
        else:
            completed.append(request)
    return completed


def classified(requests: Sequence[WorkloadRequest], long_from_toks: int | None) -> list[WorkloadRequest]:
    """Make requests ``long`` that are so already or have ``long_from_toks`` prompt tokens, and others ``short``."""

    def is_long(request: WorkloadRequest) -> bool:
        at_least = long_from_toks is not None and request.input_toks >= long_from_toks
        return at_least or request.request_class == LONG

    return [replace(request, request_class=LONG if is_long(request) else SHORT) for request in requests]

"""Which requests of a trace are taken, and when they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from astra_sim.input_error import InputError
from dataset.convert.base import Trace
from dataset.generate import Sampler
from dataset.workload import WorkloadRequest

_LARGEST_NS = 2**62


@dataclass(frozen=True, slots=True)
class Selection:
    """What the command line asks for; None stands for no limit.

    Attributes:
        start_ns: Leave out what arrives earlier; this time becomes 0.
        duration_ns: Leave out what arrives so long after the start, or later.
        num_requests: Take the first ones of what the other limits leave.
        max_input_toks: Leave out longer prompts.
        max_output_toks: Leave out longer answers.
        rate_scale: Arrivals come so many times as fast.
        arrivals: Draws new arrival times in place of the recorded ones.
    """

    start_ns: int = 0
    duration_ns: int | None = None
    num_requests: int | None = None
    max_input_toks: int | None = None
    max_output_toks: int | None = None
    rate_scale: float = 1.0
    arrivals: Sampler | None = None


def select(trace: Trace, selection: Selection, rng: np.random.Generator) -> Trace:
    """Take the requests asked for; raises InputError if none is left or arrivals get too late."""
    if not trace.arrivals_known and (selection.start_ns or selection.duration_ns is not None):
        raise InputError("", "--start, --duration", "the trace has no arrival times to choose by")
    if not trace.arrivals_known and selection.arrivals is None:
        raise InputError("", "--arrivals", "the trace has no arrival times; give a process such as poisson:5")
    kept: list[WorkloadRequest] = []
    left_out = dict(trace.left_out)
    for request in trace.requests:
        reason = _reason_against(request, selection, len(kept))
        if reason is None:
            kept.append(request)
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    if not kept:
        raise InputError("", "", f"no request is left ({described(left_out)})")
    times_ns = _times_ns(kept, selection, rng)
    taken = [replace(request, arrival_ns=at) for request, at in zip(kept, times_ns, strict=True)]
    return Trace(taken, left_out)


def _reason_against(request: WorkloadRequest, selection: Selection, taken: int) -> str | None:
    """Why ``request`` is left out, after so many have been taken; None if it is not."""
    since_start_ns = request.arrival_ns - selection.start_ns
    too_late = selection.duration_ns is not None and since_start_ns >= selection.duration_ns
    if since_start_ns < 0 or too_late:
        return "outside --start and --duration"
    if selection.max_input_toks is not None and request.input_toks > selection.max_input_toks:
        return f"with prompts of more than {selection.max_input_toks} tokens"
    if selection.max_output_toks is not None and request.output_toks > selection.max_output_toks:
        return f"with answers of more than {selection.max_output_toks} tokens"
    if taken == selection.num_requests:
        return "after the first --num-req"
    return None


def _times_ns(
    requests: Sequence[WorkloadRequest], selection: Selection, rng: np.random.Generator
) -> list[int]:
    """When the requests arrive; times that need no scaling stay exact."""
    if selection.arrivals is not None:
        times = selection.arrivals(rng, len(requests))
        wrapped = (times[1:] < times[:-1]).any()  # beyond 2**63
        if wrapped or times[-1] > _LARGEST_NS:
            raise InputError("", "--arrivals", "the last request would arrive after 2**62 ns; raise the rate")
        exact: list[int] = times.tolist()
    else:
        exact = [request.arrival_ns - selection.start_ns for request in requests]
    if selection.rate_scale == 1:
        return exact
    if exact[-1] / selection.rate_scale > _LARGEST_NS:
        raise InputError("", "--rate-scale", "the last request would arrive after 2**62 ns; raise the scale")
    return [round(at / selection.rate_scale) for at in exact]


def described(left_out: Mapping[str, int]) -> str:
    """Counts in words: ``3 with prompts of more than 8192 tokens, 1 after the first --num-req``."""
    return ", ".join(f"{count} {why}" for why, count in left_out.items())

"""What a workload says of one request, before anything is simulated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One line of a dataset: when a request arrives and how long it is.

    Attributes:
        request_id: Position among the dataset's requests, from 0.
        arrival_ns: Arrival time in nanoseconds since the start of the simulation.
        input_tokens: Prompt length in tokens, at least 1.
        output_tokens: Number of tokens to generate, at least 1.
        priority: Lower goes sooner; only priority-aware policies look at it.
        input_token_ids: The prompt's token ids, which prefix caching compares; None if not given or not kept.
        output_token_ids: The generated token ids; None if not given or not kept.
        request_class: A word that results may be grouped by, such as ``short`` or ``long``; None if not given.

    >>> RequestSpec(request_id=0, arrival_ns=1_000_000, input_tokens=128, output_tokens=32).priority
    0
    """

    request_id: int
    arrival_ns: int
    input_tokens: int
    output_tokens: int
    priority: int = 0
    input_token_ids: tuple[int, ...] | None = None
    output_token_ids: tuple[int, ...] | None = None
    request_class: str | None = None

"""What a workload says of one request, before anything is simulated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionTurn:
    """A request's place in a session: each turn arrives when the one before has ended and a tool has run.

    Attributes:
        session_id: The session's name, a word; no two sessions of a workload share one.
        turn: Place among the session's turns, from 0.
        turns: How many the session has.
        tool_ns: Time in nanoseconds from the end of the turn before to the arrival of this one; 0 for the first.
    """

    session_id: str
    turn: int
    turns: int
    tool_ns: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the session ends with this turn."""
        return self.turn == self.turns - 1


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One request of a dataset: when it arrives and how long it is.

    Attributes:
        request_id: Position among the dataset's requests, from 0.
        arrival_ns: Arrival time in nanoseconds since the start of the simulation; of a later turn of a session, the
            session's, for its own is not known before the run.
        input_tokens: Prompt length in tokens, at least 1.
        output_tokens: Number of tokens to generate, at least 1.
        priority: Lower goes sooner; only priority-aware policies look at it.
        input_token_ids: The prompt's token ids, which prefix caching compares; None if not given or not kept.
        output_token_ids: The generated token ids; None if not given or not kept.
        request_class: A word that results may be grouped by, such as ``short`` or ``long``; None if not given.
        session: Its place in a session; None if it stands alone.

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
    session: SessionTurn | None = None

"""Where the time to the first token went: every nanosecond of every TTFT, and who was in the way.

Kept only where it is asked for. An iteration leaves one line in its instance's log: from when to when, and what
it was to those who only waited. A request's account is drawn up from those lines when its first token is out,
so that waiting costs nothing while it lasts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from inference_serving.instance import InFlight, Instance
from inference_serving.request import Batch, Request
from inference_serving.scheduler import IterationOutcome, Refusal
from inference_serving.trace import Trace

NOBODY = -1


class Cause(StrEnum):
    """What a request's time before its first token was spent on."""

    COMPUTE = "compute"
    """Its own chunks, as long as they would have taken alone."""
    SHARED = "shared"
    """The rest of the iterations that it ran in: others ran beside it."""
    BEHIND = "behind"
    """The token budget went to others."""
    BLOCKED = "blocked"
    """The instance was busy with a long prompt."""
    KV = "kv"
    """Its instance had too few free KV blocks, or no sequence left."""
    DECODE = "decode"
    """Its decode instance had no room for its KV."""
    IDLE = "idle"
    """Nothing ran, though nothing was in the way."""


_CAUSES = tuple(Cause)
_REFUSED = {Refusal.MEMORY: Cause.KV, Refusal.DECODE: Cause.DECODE}
Account = Mapping[tuple[Cause, int], int]
"""Nanoseconds by cause and blocker, a request id or NOBODY; they add up to the TTFT."""


@dataclass(slots=True)
class _Member:
    """A request that computes its prompt in an iteration, and the time that its chunk would take alone."""

    request: Request
    tokens: int
    alone_ns: int
    emits: bool


class InstanceLedger:
    """The log of one instance, and the open accounts of its requests."""

    def __init__(self) -> None:
        self._starts, self._ends, self._codes = array("q"), array("q"), array("q")
        self._own: dict[int, list[tuple[int, int, int]]] = {}
        self._refusals: dict[int, list[tuple[int, Cause]]] = {}
        self._members: list[_Member] = []

    def begin(self, instance: Instance, in_flight: InFlight) -> None:
        """An iteration starts."""
        start_ns = in_flight.start_ns
        refused = self._note_refusals(instance)
        if refused is not None and (not self._ends or self._ends[-1] < start_ns):
            self._append(self._ends[-1] if self._ends else 0, *refused)
            self._ends.append(start_ns)
        self._members = _members(instance, in_flight)
        members = sorted(self._members, key=lambda member: member.tokens, reverse=True)
        line = len(self._starts)
        for member in members:
            other = next((one for one in members if one is not member), None)
            blocker = other.request.request_id if other else NOBODY
            self._own.setdefault(member.request.request_id, []).append((line, member.alone_ns, blocker))
        self._append(start_ns, *_what_it_is_to_others(members, refused))

    def end(self, end_ns: int) -> list[tuple[Request, Account]]:
        """The iteration has ended; accounts of the requests whose first token it brought."""
        self._ends.append(end_ns)
        return [(one.request, self._account(one.request, end_ns)) for one in self._members if one.emits]

    def _append(self, start_ns: int, cause: Cause, blocker: int) -> None:
        self._starts.append(start_ns)
        self._codes.append((blocker + 1) * len(_CAUSES) + _CAUSES.index(cause))

    def _note_refusals(self, instance: Instance) -> tuple[Cause, int] | None:
        """File what the scheduler has refused since the last iteration; returns the last of it."""
        refusals, last = instance.scheduler.refusals or [], None
        for at_ns, request_id, refusal in refusals:
            self._refusals.setdefault(request_id, []).append((at_ns, _REFUSED[refusal]))
            last = (_REFUSED[refusal], request_id)
        refusals.clear()
        return last

    def _account(self, request: Request, end_ns: int) -> Account:
        """Draw up a request's account from the lines between its arrival and its first token."""
        first = max(bisect_right(self._starts, request.arrival_ns) - 1, 0)
        if first < len(self._ends) and self._ends[first] <= request.arrival_ns:
            first += 1
        starts = np.maximum(np.array(self._starts[first:], np.int64), request.arrival_ns)
        lengths = np.array(self._ends[first:], np.int64) - starts
        codes = np.array(self._codes[first:], np.int64)
        account: Counter[tuple[Cause, int]] = Counter()
        refusals = dict(self._refusals.pop(request.request_id, ()))
        for line, alone_ns, blocker in self._own.pop(request.request_id, ()):
            length = int(lengths[line - first])
            own_ns = length if alone_ns < 0 else min(alone_ns, length)
            account[Cause.COMPUTE, NOBODY] += own_ns
            account[Cause.SHARED, blocker] += length - own_ns
            lengths[line - first] = 0
        for place in np.flatnonzero(np.isin(starts, list(refusals))).tolist():
            account[refusals[int(starts[place])], NOBODY] += int(lengths[place])
            lengths[place] = 0
        kinds, which = np.unique(codes, return_inverse=True)
        for code, total_ns in zip(kinds.tolist(), np.bincount(which, lengths).tolist(), strict=True):
            cause, blocker = _decode(code)
            account[cause, NOBODY if blocker == request.request_id else blocker] += int(total_ns)
        account[Cause.IDLE, NOBODY] += end_ns - request.arrival_ns - sum(account.values())
        return {key: ns for key, ns in account.items() if ns}


class WaitLedger:
    """Observes a run; ``accounts`` holds the account of every request whose first token is out, by id."""

    def __init__(self, instances: Mapping[int, Instance]) -> None:
        self.accounts: dict[int, Account] = {}
        self._instances = {instance_id: InstanceLedger() for instance_id in instances}
        for instance in instances.values():
            instance.scheduler.refusals = []

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """An iteration has been handed to the engine."""
        assert instance.in_flight is not None
        self._instances[instance.instance_id].begin(instance, instance.in_flight)

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """An iteration has ended."""
        for request, account in self._instances[instance.instance_id].end(now_ns):
            self.accounts[request.request_id] = account


def _members(instance: Instance, in_flight: InFlight) -> list[_Member]:
    """The rows of a batch that compute a prompt whose first token is not out yet."""
    members, batch = [], in_flight.batch
    rows = zip(in_flight.requests, batch.grants.tolist(), batch.context.tolist(), strict=True)
    for request, tokens, context in rows:
        if tokens and context < request.prompt_tokens and not request.token_time_parts:
            whole = batch.layer_group.is_first and batch.layer_group.is_last
            alone_ns = instance.costs.batch_ns([(tokens, context)]) if whole else -1
            emits = context + tokens == request.prompt_tokens and batch.layer_group.is_last
            members.append(_Member(request, tokens, alone_ns, emits))
    return members


def _what_it_is_to_others(members: list[_Member], refused: tuple[Cause, int] | None) -> tuple[Cause, int]:
    """What an iteration is to a request that waits without having been refused itself."""
    if members:
        first = members[0].request
        return (Cause.BLOCKED if first.request_class == "long" else Cause.BEHIND), first.request_id
    return refused or (Cause.BEHIND, NOBODY)


def _decode(code: int) -> tuple[Cause, int]:
    return _CAUSES[code % len(_CAUSES)], code // len(_CAUSES) - 1

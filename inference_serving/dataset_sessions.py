"""Read sessions: workload lines whose requests come one after the other, with tool time in between.

    {"arrival_time_ns": 0, "session_id": "fix-the-build", "sub_requests": [
        {"input_toks": 900, "output_toks": 60, "tool_duration_ns": 1500000000},
        {"input_toks": 1260, "output_toks": 80}]}

A turn has the fields of a request but the arrival, and ``tool_duration_ns``, the time from its end to the arrival of
the next turn (0 if left out; what comes after the last turn is read but delays nobody). ``priority`` and ``class``
of the line hold for the turns that give none. ``input_toks`` is the whole prompt of a turn, history included.

Token ids are given for every prompt of a session or for none. If there are none, the history is known all the same:
a prompt begins with the tokens of the turn before, prompt and answer, as far as it is long enough, and the rest is
new to everybody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inference_serving.dataset_fields import LARGEST, LineError, integer, request_of, shown, word
from inference_serving.request_spec import RequestSpec, SessionTurn

_FROM_LINE = ("priority", "class")


class SessionReader:
    """Reads the sessions of one file; token ids that it makes up are negative, so nobody else has them."""

    def __init__(self, keep_token_ids: bool) -> None:
        self._keep_token_ids = keep_token_ids
        self._line_of: dict[str, int] = {}
        self._next_id = -1

    def read(
        self, record: dict[str, Any], line: int, first_request_id: int, arrival_ns: int
    ) -> list[RequestSpec]:
        """The turns of the session on a line, numbered from ``first_request_id``; raises LineError."""
        name = self._name(record, line)
        turns = record["sub_requests"]
        if type(turns) is not list:
            raise LineError("sub_requests", f"{shown(turns)}: must be a list of turns")
        if not turns:
            raise LineError("sub_requests", "has no turns; give at least one")
        inherited = {field: record[field] for field in _FROM_LINE if record.get(field) is not None}
        specs: list[RequestSpec] = []
        tool_ns, last_ns = 0, arrival_ns
        for turn, given in enumerate(turns):
            try:
                spec = self._turn(given, inherited, first_request_id + turn, arrival_ns)
                if specs and (spec.input_token_ids is None) != (specs[0].input_token_ids is None):
                    raise LineError(
                        "input_tok_ids", "give token ids for every prompt of a session or for none"
                    )
                specs.append(replace(spec, session=SessionTurn(name, turn, len(turns), tool_ns)))
                tool_ns = _tool_ns(given, last_ns)
            except LineError as error:
                raise LineError(
                    f"sub_requests[{turn}]{error.field and '.' + error.field}", error.message
                ) from None
            last_ns += tool_ns
        return self._with_token_ids(specs)

    def _name(self, record: dict[str, Any], line: int) -> str:
        """The session's name, or its number among the sessions; no two are the same."""
        field = "session_id"
        if record.get(field) is None:
            name = str(len(self._line_of))
        elif type(record[field]) is int:
            name = str(record[field])
        else:
            name = word(record, field)
        if name in self._line_of:
            raise LineError(
                field, f"{name}: is the session of line {self._line_of[name]} too; names must differ"
            )
        self._line_of[name] = line
        return name

    def _turn(
        self, given: object, inherited: dict[str, Any], request_id: int, arrival_ns: int
    ) -> RequestSpec:
        if not isinstance(given, dict):
            raise LineError("", f'{shown(given)}: must be a JSON object such as {{"input_toks": 128, ...}}')
        turn = given | {field: value for field, value in inherited.items() if given.get(field) is None}
        if given.get("input_tok_ids") is None and given.get("output_tok_ids") is not None:
            raise LineError(
                "output_tok_ids", "needs input_tok_ids: tokens are found again with all before them"
            )
        return request_of(turn, request_id, arrival_ns, keep_token_ids=True)

    def _with_token_ids(self, specs: list[RequestSpec]) -> list[RequestSpec]:
        """The turns with the token ids that a run needs: none, those given, or made-up ones."""
        if not self._keep_token_ids:
            return [replace(spec, input_token_ids=None, output_token_ids=None) for spec in specs]
        if specs[0].input_token_ids is not None:
            return specs
        history: tuple[int, ...] = ()
        filled = []
        for spec in specs:
            known = history[: spec.input_tokens]
            prompt = known + self._new_ids(spec.input_tokens - len(known))
            answer = self._new_ids(spec.output_tokens)
            filled.append(replace(spec, input_token_ids=prompt, output_token_ids=answer))
            history = prompt + answer
        return filled

    def _new_ids(self, count: int) -> tuple[int, ...]:
        """Ids that nothing has had before."""
        first, self._next_id = self._next_id, self._next_id - count
        return tuple(range(first, self._next_id, -1))


def _tool_ns(given: dict[str, Any], last_ns: int) -> int:
    """Tool time after a turn that cannot end before ``last_ns``."""
    field = "tool_duration_ns"
    if given.get(field) is None:
        return 0
    tool_ns = integer(given, field, minimum=0)
    if last_ns + tool_ns > LARGEST:
        raise LineError(field, f"{tool_ns}: the next turn would arrive after {LARGEST} ns")
    return tool_ns

"""Who arrives next: requests whose time is known, later turns of sessions, and those held back by their clients."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from inference_serving.request import Request, RequestState
from inference_serving.request_spec import RequestSpec
from inference_serving.slowdown import class_of

_MOST_NAMED = 5


def request_of(spec: RequestSpec, long_prompt_tokens: int) -> Request:
    """The request that a workload describes, before it arrives."""
    return Request(
        request_id=spec.request_id,
        arrival_ns=spec.arrival_ns,
        prompt_tokens=spec.input_tokens,
        output_tokens=spec.output_tokens,
        priority=spec.priority,
        request_class=class_of(spec.request_class, spec.input_tokens, long_prompt_tokens),
        token_ids=(spec.input_token_ids or ()) + (spec.output_token_ids or ()),
        session=spec.session,
    )


class Arrivals:
    """Requests that have not arrived, in order of time, ties by request id.

    A later turn of a session joins when the turn before has finished. With ``max_concurrency`` above 0 at most so
    many requests are under way; when one more is due it stays outside, in the same order, until one has finished,
    and arrives then.

    >>> queue = Arrivals([Request(0, 5, 8, 2), Request(1, 5, 8, 2), Request(2, 6, 8, 2)], max_concurrency=1)
    >>> queue.next_ns, queue.pop(5).request_id, queue.next_ns
    (5, 0, None)
    >>> queue.note_finished([Request(0, 5, 8, 2, end_ns=9)])
    >>> one = queue.pop(9); one.request_id, one.arrival_ns, one.client_wait_ns
    (1, 9, 4)
    """

    def __init__(self, requests: Sequence[Request], max_concurrency: int = 0) -> None:
        self.next_ns: int | None = None
        """When the next request may arrive; None if that depends on a request that is under way, or never."""
        self._limit = max_concurrency
        self._under_way = 0
        self._requests = requests
        self._turn_after: dict[int, Request] = {}
        self._queue: list[tuple[int, int, Request]] = []
        before: dict[str, Request] = {}
        for request in requests:
            session = request.session
            if session is None or session.turn == 0:
                self._queue.append((request.arrival_ns, request.request_id, request))
            if session is None:
                continue
            if session.turn:
                self._turn_after[before[session.session_id].request_id] = request
            before[session.session_id] = request
        heapify(self._queue)
        self._find_next()

    def pop(self, now_ns: int) -> Request:
        """Take the next request, which arrives now."""
        due_ns, _, request = heappop(self._queue)
        request.arrival_ns = due_ns
        if self._limit:
            request.arrival_ns = max(due_ns, now_ns)
            request.client_wait_ns = request.arrival_ns - due_ns
            self._under_way += 1
        self._find_next()
        return request

    def note_finished(self, finished: Sequence[Request]) -> None:
        """Some requests have ended: the next turns of their sessions are due a tool time later."""
        if not finished or not (self._limit or self._turn_after):
            return
        for request in finished:
            following = self._turn_after.pop(request.request_id, None)
            if following is not None:
                assert following.session is not None
                due_ns = request.end_ns + following.session.tool_ns
                heappush(self._queue, (due_ns, following.request_id, following))
        self._under_way -= len(finished) if self._limit else 0
        self._find_next()

    def _find_next(self) -> None:
        held_back = self._limit and self._under_way >= self._limit
        self.next_ns = self._queue[0][0] if self._queue and not held_back else None

    def stall_report(self) -> list[str]:
        """Why requests have not arrived: which turns have not ended, and who waits outside."""
        lines = []
        by_id = {request.request_id: request for request in self._requests}
        open_turns = [
            by_id[before] for before in self._turn_after if by_id[before].state is not RequestState.ARRIVING
        ]
        if open_turns:
            named = [_open_turn(request) for request in open_turns[:_MOST_NAMED]]
            more = f" and {len(open_turns) - len(named)} more" if len(open_turns) > len(named) else ""
            lines.append(f"sessions wait for the end of {', '.join(named)}{more}")
        if self._queue:
            lines.append(
                f"{len(self._queue)} requests wait at their clients until one of {self._limit} under way ends"
            )
        return lines


def _open_turn(request: Request) -> str:
    assert request.session is not None
    return (
        f"turn {request.session.turn} of session {request.session.session_id} "
        f"(request {request.request_id}, {request.state.value} at instance {request.instance_id})"
    )

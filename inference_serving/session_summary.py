"""What became of the sessions of a workload: how many have ended, how many turns they had, how long they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference_serving.metrics import Distribution
from inference_serving.request import Request, RequestState

_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """Sessions and turns, given and finished, and the time of a finished session.

    A session's time goes from its arrival in the workload to the end of its last turn: with its tools, and with
    what its client held back. Tool time is that part of it in which no request was there because a tool ran.
    """

    given: int
    finished: int
    turns_given: int
    turns_finished: int
    time: Distribution
    tool_time: Distribution


def summarise_sessions(requests: Sequence[Request]) -> SessionSummary | None:
    """Sessions among a run's requests, finished or not; None if there are none."""
    sessions: dict[str, list[Request]] = {}
    for request in requests:
        if request.session is not None:
            sessions.setdefault(request.session.session_id, []).append(request)
    if not sessions:
        return None
    ended = [turns for turns in sessions.values() if turns[-1].state is RequestState.FINISHED]
    every_turn = [request for turns in sessions.values() for request in turns]
    return SessionSummary(
        given=len(sessions),
        finished=len(ended),
        turns_given=len(every_turn),
        turns_finished=sum(request.state is RequestState.FINISHED for request in every_turn),
        time=Distribution.of(
            [turns[-1].end_ns - (turns[0].arrival_ns - turns[0].client_wait_ns) for turns in ended]
        ),
        tool_time=Distribution.of([_tool_ns(turns) for turns in ended]),
    )


def _tool_ns(turns: Sequence[Request]) -> int:
    return sum(request.session.tool_ns for request in turns if request.session is not None)


def session_facts(summary: SessionSummary) -> dict[str, Any]:
    """The summary for JSON; times in seconds."""
    return {
        "given": summary.given,
        "finished": summary.finished,
        "turns": {"given": summary.turns_given, "finished": summary.turns_finished},
        "time_s": {
            "mean": summary.time.mean_ns / _NS_PER_S,
            "median": summary.time.median_ns / _NS_PER_S,
            "p99": summary.time.p99_ns / _NS_PER_S,
        },
        "tool_time_mean_s": summary.tool_time.mean_ns / _NS_PER_S,
    }


def session_lines(summary: SessionSummary) -> list[tuple[str, str]]:
    """Names and values of the lines of the printed summary."""
    return [
        ("Finished sessions", f"{summary.finished} of {summary.given}"),
        ("Finished turns", f"{summary.turns_finished} of {summary.turns_given}"),
        ("Mean session time (s)", f"{summary.time.mean_ns / _NS_PER_S:.3f}"),
        ("Median session time (s)", f"{summary.time.median_ns / _NS_PER_S:.3f}"),
        ("P99 session time (s)", f"{summary.time.p99_ns / _NS_PER_S:.3f}"),
        ("Mean tool time of a session (s)", f"{summary.tool_time.mean_ns / _NS_PER_S:.3f}"),
    ]

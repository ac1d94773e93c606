"""One blocking episode, iteration by iteration: what the instance ran, and how long each short waited."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.hol.measures import NS_PER_S
from evaluation.hol.store import Finished, Table
from evaluation.plot_style import PAGE_IN
from inference_serving.wait_ledger import Cause
from inference_serving.why import parse_ledger

_BEFORE_S, _AFTER_S = 0.2, 0.6
_QUICK_START_NS = 50_000_000
_SHORT, _LONG = "#0072B2", "#E69F00"


@dataclass(frozen=True, slots=True)
class Episode:
    """The long prompt that is looked at, by request id, and the window in ns."""

    request: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A prefill iteration in the window, seconds from the long prompt's arrival."""

    start_s: float
    end_s: float
    requests: tuple[int, ...]


def find_episode(run: Finished) -> Episode:
    """The long prompt that blocked shorts longest, of those that found the instance (nearly) free.

    Blocked time is what the shorts' wait ledgers say; raises ValueError if nobody was blocked by a long prompt.
    """
    table = run.requests
    blocked: Counter[int] = Counter()
    for text in table["wait_ledger"][table["class"] == "short"].tolist():
        for (cause, who), ns in parse_ledger(text).items():
            if cause is Cause.BLOCKED:
                blocked[who] += ns
    rows = {int(request): row for row, request in enumerate(table["request"])}

    def waited_ns(who: int) -> int:
        return int(table["ttft"][rows[who]] - table["isolated"][rows[who]])

    for who, _ in blocked.most_common():
        if waited_ns(who) <= _QUICK_START_NS:
            break
    else:
        if not blocked:
            raise ValueError("no short prompt was blocked by a long one")
        who = min(blocked, key=waited_ns)
    arrival, ttft = int(table["arrival"][rows[who]]), int(table["ttft"][rows[who]])
    before, after = round(_BEFORE_S * NS_PER_S), round(_AFTER_S * NS_PER_S)
    return Episode(who, arrival - before, arrival + ttft + after)


def bars(run: Finished, episode: Episode, zero_ns: int) -> list[Bar]:
    """The prefill iterations of the window on the instance that served the long prompt."""
    instance = int(run.requests["instance"][run.requests["request"] == episode.request][0])
    text = gzip.decompress((run.folder / "iterations.csv.gz").read_bytes()).decode()
    found = []
    for row in csv.DictReader(io.StringIO(text)):
        start, end = int(row["start"]), int(row["end"])
        if (
            int(row["instance"]) == instance
            and row["prefills"]
            and end > episode.start_ns
            and start < episode.end_ns
        ):
            who = tuple(int(part.split(":")[0]) for part in row["prefills"].split())
            found.append(Bar((start - zero_ns) / NS_PER_S, (end - zero_ns) / NS_PER_S, who))
    return found


def draw_episode(pyplot: Any, runs: Sequence[tuple[str, Finished]]) -> Any:
    """The episode that the first run contains, under all of them, one above the other."""
    episode = find_episode(runs[0][1])
    figure, rows = pyplot.subplots(
        len(runs), 1, figsize=(PAGE_IN, 1.9 * len(runs)), sharex=True, squeeze=False
    )
    table = runs[0][1].requests
    zero_ns = int(table["arrival"][table["request"] == episode.request][0])
    for axes, (name, run) in zip(rows[:, 0], runs, strict=True):
        _draw(axes, run, episode, zero_ns)
        axes.set_title(name, loc="left")
    axes = rows[-1, 0]
    axes.set_xlabel(f"time since the long prompt (request {episode.request}) arrived (s)")
    axes.set_xlim(*((end - zero_ns) / NS_PER_S for end in (episode.start_ns, episode.end_ns)))
    figure.legend(handles=_handles(pyplot), loc="outside upper center", ncols=4)
    return figure


def _draw(axes: Any, run: Finished, episode: Episode, zero_ns: int) -> None:
    classes = dict(zip(run.requests["request"].tolist(), run.requests["class"].tolist(), strict=True))
    for bar in bars(run, episode, zero_ns):
        long = any(classes[who] == "long" for who in bar.requests)
        ours = episode.request in bar.requests
        colour, hatch = (_LONG, "") if ours else (_LONG, "xxx") if long else (_SHORT, "")
        box = {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
        axes.barh(0, bar.end_s - bar.start_s, left=bar.start_s, height=1.6, **box)
    waits = _waits(run.requests, episode, zero_ns)
    for place, (arrival_s, first_token_s) in enumerate(waits, 2):
        axes.plot([arrival_s, first_token_s], [place, place], color="#4D4D4D", linewidth=0.9)
        axes.plot(first_token_s, place, marker="o", markersize=2.5, color="black")
    axes.set(yticks=[0, 2 + len(waits) / 2], yticklabels=["instance", "shorts"], ylim=(-1.3, len(waits) + 3))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _waits(table: Table, episode: Episode, zero_ns: int) -> list[tuple[float, float]]:
    """Arrival and first token of the shorts that arrive in the window, in seconds."""
    chosen = (table["class"] == "short") & (table["arrival"] >= episode.start_ns)
    chosen &= table["arrival"] < episode.end_ns
    arrivals = (table["arrival"][chosen] - zero_ns) / NS_PER_S
    ends = arrivals + table["ttft"][chosen] / NS_PER_S
    order = np.argsort(arrivals, kind="stable")
    return list(zip(arrivals[order].tolist(), ends[order].tolist(), strict=True))


def _handles(pyplot: Any) -> list[Any]:
    box, line = pyplot.Rectangle, pyplot.Line2D
    return [
        box((0, 0), 1, 1, color=_LONG, label="the long prompt runs"),
        box((0, 0), 1, 1, facecolor=_LONG, hatch="xxx", edgecolor="white", label="another long prompt runs"),
        box((0, 0), 1, 1, color=_SHORT, label="shorts run"),
        line([], [], color="#4D4D4D", marker="o", markersize=3, label="a short, from arrival to first token"),
    ]

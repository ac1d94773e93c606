"""Measure what a journal lacks of a plan, one point after the other."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_profile.profiler.journal import Journal
from llm_profile.profiler.plan import Point
from llm_profile.profiler.samples import Times

SUSPICIOUS_FALL = 1.25
"""A layer that takes this many times as long as with more work is measured again,"""
MOST_TRIES = 4
"""but no point more often than this in all."""


class PointMeasurer(Protocol):
    """What measures a point: :class:`llm_profile.profiler.measure.Measurer`, or a stand-in."""

    def measure(self, point: Point) -> Times:
        """Times of every layer of ``point``."""
        ...


class PhaseListener(Protocol):
    """Is told what is being measured (power sampling)."""

    def enter(self, phase: str) -> None:
        """``phase`` begins."""
        ...


def measure_missing(
    points: Sequence[Point],
    journal: Journal,
    measurer: PointMeasurer,
    listeners: Sequence[PhaseListener] = (),
) -> int:
    """Measure the points that ``journal`` lacks, then the disturbed ones again; return how many there were."""
    missing = [point for point in points if point not in journal.points]
    count = 0
    with _progress() as progress:
        task = progress.add_task("profiling", total=len(points), completed=len(points) - len(missing), at="")
        while missing:
            for point in missing:
                progress.update(task, at=str(point))
                for listener in listeners:
                    listener.enter(point.kind)
                journal.add(point, measurer.measure(point))
                progress.advance(task)
            count += len(missing)
            again = disturbed({point: journal.points[point] for point in points})
            missing = [point for point in again if journal.shots[point] < MOST_TRIES]
    return count


def disturbed(measured: Mapping[Point, Times]) -> list[Point]:
    """Points with a layer that takes much longer than with more work along one axis, the others equal.

    A busy machine makes such points, and so may a change of kernel, which a second measurement then confirms.
    """
    lines: dict[tuple[object, ...], list[tuple[int, float, Point]]] = defaultdict(list)
    for point, times in measured.items():
        for axis, at in enumerate(point.key):
            others = (*point.key[:axis], *point.key[axis + 1 :])
            for name, stats in times.items():
                lines[point.kind, name, axis, others].append((at, stats.median, point))
    found = set()
    for line in lines.values():
        least = float("inf")
        for _, median, point in sorted(line, key=lambda entry: entry[0], reverse=True):
            if median > SUSPICIOUS_FALL * least:
                found.add(point)
            least = min(least, median)
    return [point for point in measured if point in found]


def _progress() -> Progress:
    """A bar on stderr; silent where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[at]}"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
        transient=True,
    )

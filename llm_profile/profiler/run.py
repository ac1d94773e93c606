"""Measure what a journal lacks of a plan, one point after the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_profile.profiler.journal import Journal
from llm_profile.profiler.plan import Point
from llm_profile.profiler.samples import Times


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
    """Measure the points that ``journal`` lacks and add each to it; return how many there were."""
    missing = [point for point in points if point not in journal.points]
    with _progress() as progress:
        task = progress.add_task("profiling", total=len(points), completed=len(points) - len(missing), at="")
        for point in missing:
            progress.update(task, at=str(point))
            for listener in listeners:
                listener.enter(point.kind)
            journal.add(point, measurer.measure(point))
            progress.advance(task)
    return len(missing)


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

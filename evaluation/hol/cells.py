"""Runs pooled over seeds: a cell is what one line of a table or one mark of a figure shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.hol.bootstrap import Estimate, Floats, Statistic, estimate, mean, percentile
from evaluation.hol.measures import NS_PER_MS, bound_ns, guarantee_of, kept, of_class, slowdowns
from evaluation.hol.plan import Point
from evaluation.hol.store import MISSING, Finished, Store
from inference_serving.slowdown import jain

_ESTIMATES = {"short_p99_ms": True, "long_p99_ms": False, "mean_slowdown": True, "tpot_p99_ms": False}
"""Whether the ratio to the baseline says how much better (base over own), or how much more (own over base)."""
BASELINE, BASE_ROUTER = "fcfs-2048", "RR"


@dataclass(frozen=True)
class Setting:
    """What all policies of a comparison have in common, the router apart."""

    workload: str
    load: str
    arrivals: str
    cluster: str

    @property
    def title(self) -> str:
        """For table headings and figures."""
        extra = "" if self.arrivals in ("poisson", "own") else f", {self.arrivals}"
        return f"{self.workload}, load {self.load}{extra}, {self.cluster}"


class Cell:
    """The runs of one policy and router in a setting, one a seed, in order of seed."""

    def __init__(self, points: Sequence[Point], runs: Sequence[Finished]) -> None:
        self.points = tuple(points)
        self.runs = tuple(runs)

    @property
    def contestant(self) -> str:
        """Name of the policy in policies.yaml."""
        return self.points[0].contestant

    @property
    def router(self) -> str:
        """Name of the router."""
        return self.points[0].router

    def values(self, column: str, name: str) -> list[Floats]:
        """``ttft_ms``, ``slowdown`` or ``tpot_ms`` of a class, in order of arrival, one array a seed."""
        found = []
        for point, run in zip(self.points, self.runs, strict=True):
            table = run.requests
            chosen = kept(table, point.workload.warm_up) & of_class(table, name)
            if column == "tpot_ms":
                chosen = chosen & (table["output"] - table["input"] > 1)
            data = slowdowns(table) if column == "slowdown" else table[column.removesuffix("_ms")] / NS_PER_MS
            found.append(np.asarray(data[chosen], np.float64))
        return [one for one in found if len(one)]

    def estimate(self, column: str, name: str, statistic: Statistic) -> Estimate | None:
        """A pooled statistic with its interval; None without a request of the class."""
        runs = self.values(column, name)
        return estimate(runs, statistic) if runs else None

    @cached_property
    def short_p99_ms(self) -> Estimate | None:
        """p99 TTFT of shorts."""
        return self.estimate("ttft_ms", "short", percentile(99))

    @cached_property
    def long_p99_ms(self) -> Estimate | None:
        """p99 TTFT of longs."""
        return self.estimate("ttft_ms", "long", percentile(99))

    @cached_property
    def mean_slowdown(self) -> Estimate | None:
        """Mean slowdown of all requests."""
        return self.estimate("slowdown", "all", mean)

    @cached_property
    def tpot_p99_ms(self) -> Estimate | None:
        """p99 of the requests' TPOT."""
        return self.estimate("tpot_ms", "all", percentile(99))

    @cached_property
    def fairness(self) -> tuple[float, float, float]:
        """Jain's index over slowdowns, over their inverses and over class means."""
        slowdown = np.concatenate(self.values("slowdown", "all"))
        classes = [
            np.concatenate(found) for name in ("short", "long") if (found := self.values("slowdown", name))
        ]
        return jain(slowdown), jain(1 / slowdown), jain([float(one.mean()) for one in classes])

    def total(self, what: str) -> float:
        """Sum over seeds of the ``makespan``, or of the time that ``prefill_busy`` or all (``busy``) instances work."""
        if what == "makespan":
            return float(sum(run.summary["makespan_ns"] for run in self.runs))
        everybody = [one for run in self.runs for one in run.summary["instances"]]
        return float(sum(one["busy_ns"] for one in everybody if what == "busy" or one["role"] != "decode"))

    @cached_property
    def bound_use(self) -> Floats:
        """TTFT over the bound, of all requests of all seeds, the warm-up included."""
        pairs = zip(self.points, self.runs, strict=True)
        return np.concatenate(
            [run.requests["ttft"] / bound_ns(run.requests, *guarantee_of(point)) for point, run in pairs]
        )

    @property
    def promises_broken(self) -> int | None:
        """Requests later than the policy itself had promised; None for a policy that promises nothing."""
        broken = [
            ((run.requests["bound"] != MISSING) & (run.requests["ttft"] > run.requests["bound"])).sum()
            for run in self.runs
            if (run.requests["bound"] != MISSING).any()
        ]
        return int(sum(broken)) if broken else None


Cells = Mapping[Setting, Sequence[Cell]]


def make_cells(points: Iterable[Point], store: Store) -> Cells:
    """Group the points that have been run, in the order in which they come."""
    groups: dict[Setting, dict[tuple[str, str], list[Point]]] = {}
    for point in points:
        work = point.workload
        setting = Setting(work.name, work.load, work.arrivals, point.cluster)
        groups.setdefault(setting, {}).setdefault((point.contestant, point.router), []).append(point)
    return {
        setting: [_cell(sorted(found, key=lambda one: one.workload.seed), store) for found in cells.values()]
        for setting, cells in groups.items()
    }


def _cell(points: Sequence[Point], store: Store) -> Cell:
    return Cell(points, [store.load(point) for point in points])


def find(cells: Sequence[Cell], contestant: str, router: str = BASE_ROUTER) -> Cell | None:
    """A policy's cell in a setting, if it has been run."""
    return next((one for one in cells if (one.contestant, one.router) == (contestant, router)), None)


def facts_of(cell: Cell, base: Cell | None) -> dict[str, Any]:
    """Numbers of a cell by name, ratios to a baseline on the same seeds included; None where there is none."""
    same = base is not None and [p.workload for p in base.points] == [p.workload for p in cell.points]
    ref = base if same else None
    facts: dict[str, Any] = {
        "policy": cell.contestant,
        "router": cell.router,
        "chunk": cell.points[0].chunk,
        "seeds": len(cell.points),
        "requests": sum(len(one) for one in cell.values("ttft_ms", "all")),
    }
    for name, gain in _ESTIMATES.items():
        own: Estimate | None = getattr(cell, name)
        other: Estimate | None = getattr(ref, name) if ref else None
        ratio = None if own is None or other is None else (other.over(own) if gain else own.over(other))
        for key, one in ((name, own), (f"{name}_{'gain' if gain else 'ratio'}", ratio)):
            low, high = one.interval if one else (None, None)
            facts |= {key: one and one.value, f"{key}_low": low, f"{key}_high": high}
    for name in ("makespan", "prefill_busy", "busy"):
        facts[f"{name}_ratio"] = cell.total(name) / ref.total(name) if ref else None
    facts |= dict(zip(("jain_slowdown", "jain_inverse", "jain_class_means"), cell.fairness, strict=True))
    facts["violations"] = int((cell.bound_use > 1).sum())
    facts["bound_use_max"] = float(cell.bound_use.max())
    facts["promises_broken"] = cell.promises_broken
    facts["peak_paused_kv_blocks"] = max(
        one["kv_blocks"]["peak_paused"] for run in cell.runs for one in run.summary["instances"]
    )
    facts["preemptions"] = sum(one["preemptions"] for run in cell.runs for one in run.summary["instances"])
    return facts

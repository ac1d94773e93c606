"""The energy of a run as numbers, summary lines, JSON and a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from inference_serving.power.iteration_work import FloatArray
from inference_serving.request import Int64Array


@dataclass(frozen=True, slots=True)
class NodeEnergy:
    """Joules of one node, shape ``[intervals, parts]``."""

    node_id: int
    parts: tuple[str, ...]
    energy_j: FloatArray

    def by_part_j(self) -> dict[str, float]:
        """Joules of the whole run by part."""
        return dict(zip(self.parts, self.energy_j.sum(axis=0).tolist(), strict=True))


@dataclass(frozen=True)
class EnergyReport:
    """Energy from time 0 to the end of the last interval, which may be shorter than the others.

    ``by_request_j`` has a request's share at its id; what no request has is ``unassigned_j``: idle power, and
    standby between iterations.
    """

    interval_ends_ns: Int64Array
    nodes: tuple[NodeEnergy, ...]
    by_request_j: FloatArray

    @property
    def duration_ns(self) -> int:
        """Simulated time that the report covers."""
        return int(self.interval_ends_ns[-1]) if len(self.interval_ends_ns) else 0

    @cached_property
    def total_j(self) -> float:
        """Energy of all nodes."""
        return sum(float(node.energy_j.sum()) for node in self.nodes)

    @property
    def assigned_j(self) -> float:
        """Energy that requests have a share of."""
        return float(self.by_request_j.sum())

    @property
    def unassigned_j(self) -> float:
        """The rest."""
        return self.total_j - self.assigned_j

    def of_request_j(self, request_id: int) -> float:
        """Share of one request."""
        return float(self.by_request_j[request_id]) if request_id < len(self.by_request_j) else 0.0

    @property
    def mean_power_w(self) -> float:
        """Energy over time."""
        return self.total_j * 1e9 / self.duration_ns if self.duration_ns else 0.0

    def power_w(self) -> FloatArray:
        """Mean power of all nodes in each interval, shape ``[intervals]``."""
        total = np.zeros(len(self.interval_ends_ns))
        for node in self.nodes:
            total += node.energy_j.sum(axis=1)
        power_w: FloatArray = total / self.lengths_s()
        return power_w

    def lengths_s(self) -> FloatArray:
        """Seconds of each interval, shape ``[intervals]``."""
        lengths: FloatArray = np.diff(self.interval_ends_ns, prepend=0) * 1e-9
        return lengths

    def per_token_j(self, tokens: int) -> float:
        """Energy of the run over its generated tokens."""
        return self.total_j / tokens if tokens else 0.0


def energy_lines(report: EnergyReport, generated_tokens: int) -> list[tuple[str, str]]:
    """Names and values for the printed summary."""
    total_j = report.total_j
    lines = [
        ("Total energy (kJ)", f"{total_j / 1e3:.3f}"),
        ("Mean power (W)", f"{report.mean_power_w:.1f}"),
        ("Peak interval power (W)", f"{max(report.power_w(), default=0.0):.1f}"),
        ("Energy per generated token (J)", f"{report.per_token_j(generated_tokens):.3f}"),
        ("Energy in requests (kJ)", f"{report.assigned_j / 1e3:.3f}"),
    ]
    for node in report.nodes:
        for part, energy_j in node.by_part_j().items():
            share = 100 * energy_j / total_j if total_j else 0.0
            lines.append((f"Node {node.node_id} {part} (kJ)", f"{energy_j / 1e3:.3f} ({share:.1f} %)"))
    return lines


def energy_facts(report: EnergyReport, generated_tokens: int) -> dict[str, Any]:
    """The same for the summary's JSON."""
    return {
        "energy_j": report.total_j,
        "mean_power_w": report.mean_power_w,
        "peak_interval_power_w": float(max(report.power_w(), default=0.0)),
        "energy_per_generated_token_j": report.per_token_j(generated_tokens),
        "requests_energy_j": report.assigned_j,
        "unassigned_energy_j": report.unassigned_j,
        "nodes": [
            {
                "node_id": node.node_id,
                "energy_j": sum(node.by_part_j().values()),
                "energy_by_component_j": node.by_part_j(),
            }
            for node in report.nodes
        ],
    }


def series_text(report: EnergyReport) -> str:
    """Mean power by interval, tab-separated: ``time_s`` (its end), ``power_w``, then each part of each node."""
    lengths_s = report.lengths_s()
    columns = [report.interval_ends_ns / 1e9, report.power_w()]
    names = ["time_s", "power_w"]
    for node in report.nodes:
        names += [f"node{node.node_id}_{part}_w" for part in node.parts]
        columns += list((node.energy_j / lengths_s[:, None]).T)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return "".join(_tabbed(line) for line in (names, *(_numbers(row) for row in rows)))


def _numbers(row: Sequence[float]) -> list[str]:
    return [f"{row[0]:.9g}", *(f"{value:.3f}" for value in row[1:])]


def _tabbed(cells: Sequence[str]) -> str:
    return "\t".join(cells) + "\n"

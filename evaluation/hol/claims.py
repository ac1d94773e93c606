"""The main claim, held against the runs: what was wanted, what came out, met or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.hol.cells import BASELINE, Cell, Cells, Setting, facts_of, find
from evaluation.hol.tables import Facts, gain_over, with_interval

OURS = "bounded-overtake"
_HEADINGS = "| setting | claim | must | goal | found [95 %] | verdict |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Claim:
    """A number of :func:`evaluation.hol.cells.facts_of`, and the limits that it should keep."""

    text: str
    rival: str
    fact: str
    must: float
    goal: float
    at_least: bool = False

    def verdict(self, value: float | None) -> str:
        """How far the value gets; None is what could not be measured."""
        if value is None:
            return "no runs"
        keeps: Callable[[float], bool] = (
            (lambda limit: value >= limit) if self.at_least else (lambda limit: value <= limit)
        )
        return "goal" if keeps(self.goal) else "met" if keeps(self.must) else "MISSED"


ONE_INSTANCE = (
    Claim("short p99 TTFT, times better than fcfs-2048", BASELINE, "short_p99_ms_gain", 20, 50, True),
    Claim(
        "short p99 TTFT, times better than fcfs with its best chunk",
        "fcfs",
        "short_p99_ms_gain",
        20,
        50,
        True,
    ),
    Claim("short p99 TTFT, times better than srpt", "srpt", "short_p99_ms_gain", 1.3, 1.6, True),
    *(
        Claim(f"short p99 TTFT, times better than {name}", name, "short_p99_ms_gain", 2, 3, True)
        for name in ("lars", "lars-floor", "lars-floor-0.2")
    ),
    Claim("mean slowdown", BASELINE, "mean_slowdown", 4, 2),
    Claim("long p99 TTFT over fcfs-2048", BASELINE, "long_p99_ms_ratio", 1.35, 1.2),
    Claim("makespan over fcfs-2048", BASELINE, "makespan_ratio", 1.03, 1.01),
    Claim("busy time of prefill instances over fcfs-2048", BASELINE, "prefill_busy_ratio", 1.03, 1.01),
    Claim("busy time of all instances over fcfs-2048", BASELINE, "busy_ratio", 1.03, 1.01),
    Claim("decode TPOT p99 over fcfs-2048", BASELINE, "tpot_p99_ms_ratio", 1.02, 1.02),
)
FOUR_INSTANCES = (
    Claim("short p99 TTFT, times better than RR + fcfs-2048", BASELINE, "short_p99_ms_gain", 150, 150, True),
    Claim("long p99 TTFT over RR + fcfs-2048", BASELINE, "long_p99_ms_ratio", 1.2, 1.0),
    Claim("Jain's index over slowdowns", BASELINE, "jain_slowdown", 0.85, 0.85, True),
)


def claims_text(main: Cells, routers: Cells) -> str:
    """All claims for which there are runs, as Markdown."""
    lines = ["# Claims\n", _HEADINGS]
    for setting, cells in main.items():
        lines += _one_instance(setting, cells)
    for setting, cells in routers.items():
        ours, base = find(cells, OURS, "MSC"), find(cells, BASELINE)
        if ours and base and setting.cluster == "h100_8b_4p4d":
            facts = facts_of(ours, base)
            lines += [_line(setting, claim, facts) for claim in FOUR_INSTANCES]
    return "\n".join(lines) + "\n"


def _one_instance(setting: Setting, cells: Sequence[Cell]) -> Iterator[str]:
    for claim in ONE_INSTANCE:
        facts = gain_over(cells, OURS, claim.rival)
        if facts is not None:
            yield _line(setting, claim, facts)


def _line(setting: Setting, claim: Claim, facts: Facts) -> str:
    value: Any = facts[claim.fact]
    found = "-" if value is None else f"{value:.3f}"
    if f"{claim.fact}_low" in facts:
        found = with_interval(facts, claim.fact)
    sign = ">=" if claim.at_least else "<="
    limits = f"{sign} {claim.must:g} | {sign} {claim.goal:g}"
    return f"| {setting.title} | {claim.text} | {limits} | {found} | {claim.verdict(value)} |"

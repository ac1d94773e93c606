"""Tables of a sweep, as CSV with every number and as Markdown with those to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.hol.cells import BASELINE, Cell, Cells, Setting, facts_of, find
from evaluation.hol.tidy import csv_of
from inference_serving.files import write_whole

Facts = Mapping[str, Any]
_NOTE = (
    "TTFT in ms; [..] are 95 % bootstrap intervals over seeds and requests. Gain: {base} over this policy, on the same "
    "arrivals (larger is better). Ratios: this policy over {base}. Jain's index over slowdowns / over their inverses / "
    "over class means: read it beside the mean slowdown. Late: requests beyond (virtual FCFS + beta x alone) / (1 - "
    "sigma), and the largest TTFT over that bound; warm-up included."
)
_HEADINGS = (
    "policy",
    "chunk",
    "short p99",
    "gain",
    "mean slowdown",
    "long p99",
    "long p99 ratio",
    "Jain",
    "makespan",
    "busy: prefill",
    "all",
    "TPOT p99",
    "late",
    "most of bound",
    "paused KV blocks",
)


def write_tables(experiment: str, cells: Cells, folder: Path) -> list[tuple[Setting, Facts]]:
    """Write ``NAME.md`` and ``NAME.csv``; returns the facts of every line."""
    found: list[tuple[Setting, Facts]] = []
    parts = [f"# {experiment}\n", _NOTE.format(base=f"{BASELINE} (router RR)"), ""]
    for setting, contestants in cells.items():
        base = find(contestants, BASELINE)
        facts = [facts_of(cell, base) for cell in contestants]
        found += [(setting, one) for one in facts]
        parts += [f"## {setting.title}\n", _row(_HEADINGS), _row(["---"] * len(_HEADINGS))]
        parts += [_row(_cells(one)) for one in facts] + [""]
    rows = [
        {
            "workload": setting.workload,
            "load": setting.load,
            "arrivals": setting.arrivals,
            "cluster": setting.cluster,
            **one,
        }
        for setting, one in found
    ]
    name = experiment.replace(" ", "_")
    write_whole(folder / f"{name}.md", "\n".join(parts))
    write_whole(folder / f"{name}.csv", csv_of(rows))
    return found


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(facts: Facts) -> list[str]:
    router = "" if facts["router"] == "RR" else f" + {facts['router']}"
    jains = (facts["jain_slowdown"], facts["jain_inverse"], facts["jain_class_means"])
    return [
        f"{facts['policy']}{router}",
        str(facts["chunk"]),
        with_interval(facts, "short_p99_ms"),
        with_interval(facts, "short_p99_ms_gain"),
        with_interval(facts, "mean_slowdown"),
        with_interval(facts, "long_p99_ms"),
        with_interval(facts, "long_p99_ms_ratio"),
        " / ".join(f"{value:.2f}" for value in jains),
        _number(facts["makespan_ratio"], 4),
        _number(facts["prefill_busy_ratio"], 4),
        _number(facts["busy_ratio"], 4),
        _number(facts["tpot_p99_ms_ratio"], 3),
        str(facts["violations"]),
        _number(facts["bound_use_max"], 3),
        str(facts["peak_paused_kv_blocks"]),
    ]


def with_interval(facts: Facts, name: str) -> str:
    """``value [low, high]`` of one of a cell's facts."""
    if facts[name] is None:
        return "-"
    low, high = facts[f"{name}_low"], facts[f"{name}_high"]
    return f"{_number(facts[name])} [{_number(low)}, {_number(high)}]"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def chunk_table(facts: Sequence[Mapping[str, Any]]) -> str:
    """The training runs as Markdown: p99 TTFT (ms) of the shorts by chunk, the best in bold."""
    chunks = sorted({int(chunk) for one in facts for chunk in one["short_p99_ttft_ms"]})
    lines = [
        "# Best chunk of each policy\n",
        "p99 TTFT (ms) of shorts on the training seed, by token budget.\n",
    ]
    lines += [_row(["workload", "policy", *map(str, chunks)]), _row(["---"] * (len(chunks) + 2))]
    for one in facts:
        cells = []
        for chunk in chunks:
            text = _number(one["short_p99_ttft_ms"].get(str(chunk)))
            cells.append(f"**{text}**" if chunk == one["best_chunk"] else text)
        lines.append(_row([one["kind"], one["policy"], *cells]))
    return "\n".join(lines) + "\n"


def gain_over(cells: Sequence[Cell], contestant: str, rival: str) -> Facts | None:
    """Facts of a contestant with another rival as the baseline; None if one of the two has not been run."""
    own, base = find(cells, contestant), find(cells, rival)
    return facts_of(own, base) if own and base else None

"""What a run printed, as a summary: for logs of this simulator and of LLMServingSim 2.0, whose layout it keeps.

A log has a line each interval, ``[1.00s] prompt throughput: 56.0 tok/s, ...``, and blocks under titles such as
``==== Throughput Results ====`` with lines ``name (unit): value``. Colours are ignored, and so is what is neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TITLE = re.compile(r"^[=\-*]{3,}\s*(?P<title>[^=\-*\s].*?)\s*[=\-*]{3,}$")
_INTERVAL = re.compile(r"^\[(?P<end>\d+(?:\.\d+)?)\s*s\]\s*(?P<facts>.+)$")
_FACT = re.compile(r"^(?P<name>.+?)(?:\s*\((?P<unit>[^()]*)\))?:\s+(?P<value>\S.*)$")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_SCALES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "j": 1.0, "kj": 1e3}
_LATENCIES, _STATISTICS = ("ttft", "tpot", "itl"), ("mean", "median", "p99")


@dataclass(slots=True)
class Block:
    """Lines under one title: values by lower-case name, each with its unit (empty where the name has none)."""

    title: str
    facts: dict[str, tuple[float, str]] = field(default_factory=dict)

    def get(self, name: str, unit: str = "") -> float | None:
        """A number, in seconds or joules if ``unit`` is a time or an energy; None if it is not there."""
        if name not in self.facts:
            return None
        value, own = self.facts[name]
        if unit in _SCALES and own in _SCALES:
            return value * _SCALES[own] / _SCALES[unit]
        return value


@dataclass(frozen=True, slots=True)
class RunLog:
    """``intervals`` are (end in s, values by name), ``blocks`` in their order; names are in lower case."""

    file: Path
    intervals: tuple[tuple[float, Mapping[str, float]], ...]
    blocks: tuple[Block, ...]

    def block(self, title: str) -> Block:
        """The first block of which the title begins so; raises InputError without one."""
        for one in self.titled(title):
            return one
        raise InputError(self.file, "", f'has no block "{title}"; give what a run has printed')

    def titled(self, title: str) -> Iterator[Block]:
        """All blocks of which the title begins so."""
        return (one for one in self.blocks if one.title.lower().startswith(title.lower()))


def read_log(file: Path) -> RunLog:
    """Read a log; raises InputError if it cannot be read."""
    try:
        lines = _COLOUR.sub("", file.read_text(encoding="utf-8", errors="replace")).splitlines()
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from error
    intervals: list[tuple[float, Mapping[str, float]]] = []
    blocks: list[Block] = []
    for line in map(str.strip, lines):
        if found := _INTERVAL.match(line):
            facts = dict(_facts(found["facts"].split(", ")))
            intervals.append((float(found["end"]), {name: value for name, (value, _) in facts.items()}))
        elif found := _TITLE.match(line):
            blocks.append(Block(found["title"]))
        elif blocks:
            blocks[-1].facts.update(_facts([line]))
    return RunLog(file, tuple(intervals), tuple(blocks))


def _facts(texts: Sequence[str]) -> Iterator[tuple[str, tuple[float, str]]]:
    for text in texts:
        found = _FACT.match(text)
        number = _NUMBER.match(found["value"]) if found else None
        if found and number:
            yield found["name"].lower(), (float(number[0]), (found["unit"] or "").lower())


def log_summary(log: RunLog) -> dict[str, Any]:
    """The log's facts where ``--summary-json`` has them; None stands for what a log does not tell.

    A log has latencies of each instance. Means over all instances are theirs, weighted with their requests; medians
    and percentiles are known for one instance alone.
    """
    totals = log.block("Throughput Results")
    makespan_s = totals.get("total clocks", "s") or totals.get("total simulated time", "s")
    instances = list(log.titled("Instance"))
    facts: dict[str, Any] = {
        "requests": {"finished": totals.get("finished requests")},
        "makespan_ns": None if makespan_s is None else makespan_s * 1e9,
        "tokens": {
            "prompt": totals.get("total input tokens"),
            "generated": totals.get("total generated tokens"),
        },
        "throughput_per_s": {
            "requests": totals.get("request throughput"),
            "prompt_tokens": totals.get("prompt throughput"),
            "generated_tokens": totals.get("generation throughput"),
        },
        "latency_ms": {name: _latency(name, instances) for name in _LATENCIES},
        "prefix_hit_percent": _over_all(log, instances, "prefix hits", "prefix hit ratio"),
        "storage_hit_percent": _over_all(log, instances, "storage hits", "prefix hit ratio, storage"),
        "simulation_time_s": next(
            (one.get("simulation time", "s") for one in log.blocks if "simulation time" in one.facts), None
        ),
    }
    facts["latency_ms"]["latency"] = {"mean": totals.get("mean latency", "ms"), "median": None, "p99": None}
    for power in log.titled("Power Results"):
        facts["power"] = _power(power)
    return facts


def _latency(name: str, instances: Sequence[Block]) -> dict[str, float | None]:
    if len(instances) == 1:
        return {statistic: instances[0].get(f"{statistic} {name}", "ms") for statistic in _STATISTICS}
    found = [(one.get(f"mean {name}", "ms"), one.get("requests")) for one in instances]
    known = [(mean, requests) for mean, requests in found if mean is not None and requests]
    served = sum(requests for _, requests in known)
    mean = sum(mean * requests for mean, requests in known) / served if served else None
    return {"mean": mean, "median": None, "p99": None}


def _over_all(log: RunLog, instances: Sequence[Block], interval: str, ratio: str) -> float | None:
    """The instance's ratio if there is one instance, else what the last interval says of all."""
    if len(instances) == 1:
        return instances[0].get(ratio)
    return next((facts[interval] for _, facts in reversed(log.intervals) if interval in facts), None)


def _power(block: Block) -> dict[str, Any]:
    parts: dict[str, dict[str, float]] = {}
    for name, (value, unit) in block.facts.items():
        if found := re.match(r"node (\d+) (\S+)$", name):
            parts.setdefault(found[1], {})[found[2]] = value * _SCALES.get(unit, 1.0)
    return {
        "energy_j": block.get("total energy", "j"),
        "mean_power_w": block.get("mean power"),
        "peak_interval_power_w": block.get("peak interval power"),
        "energy_per_generated_token_j": block.get("energy per generated token", "j"),
        "nodes": [{"node_id": int(node), "energy_by_component_j": found} for node, found in parts.items()],
    }

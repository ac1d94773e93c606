"""How fast the engine is: events a second, wall time and instructions on fixed graphs, start excluded.

``python benchmarks/engine.py`` times every scenario on both networks; ``--instructions`` also counts the
instructions of ``Engine.advance`` with ``valgrind --tool=callgrind``, which are the same in every run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from astra_sim import (
    CollectiveKind,
    Engine,
    EngineOptions,
    Graph,
    NetworkConfig,
    Node,
    NodeKind,
    SystemConfig,
)

_COMPUTE_NS, _ALL_REDUCE_BYTES = 50_000, 2 << 20
_LAYERS_IN_HALF_A_BLOCK = 5
_COLLECTED = re.compile(r"Collected\s*:\s*(\d+)")


@dataclass(frozen=True)
class Scenario:
    """A graph that every NPU of a ring network of the given dimensions runs once."""

    dimensions: tuple[int, ...]
    graph: Callable[[], Graph]
    original_ms: float | None
    """CPU time of the original ASTRA-Sim, about 6 ms of it its start; measured once on another machine."""


def chain(nodes: int) -> Graph:
    """Compute nodes one after the other."""
    return Graph(
        tuple(Node(i, NodeKind.COMP, data_deps=(i - 1,) if i else (), duration_slot=0) for i in range(nodes))
    )


def transformer(blocks: int) -> Graph:
    """Blocks of ten compute nodes with two all-reduces of 2 MiB, as in a tensor-parallel transformer."""
    nodes: list[Node] = []
    for _ in range(2 * blocks):
        for step in range(_LAYERS_IN_HALF_A_BLOCK + 1):
            number = len(nodes)
            parents = (number - 1,) if number else ()
            if step < _LAYERS_IN_HALF_A_BLOCK:
                nodes.append(Node(number, NodeKind.COMP, data_deps=parents, duration_slot=0))
            else:
                kind = CollectiveKind.ALL_REDUCE
                nodes.append(Node(number, NodeKind.COLL, data_deps=parents, size_slot=0, collective=kind))
    return Graph(tuple(nodes))


SCENARIOS = {
    "1 NPU x 387 nodes": Scenario((1,), lambda: chain(387), None),
    "8,000 compute nodes": Scenario((1,), lambda: chain(8000), 73),
    "TP4 x 32 blocks": Scenario((4,), lambda: transformer(32), 11),
    "TP8 x 32 blocks": Scenario((8,), lambda: transformer(32), None),
    "TP8 x 80 blocks": Scenario((8,), lambda: transformer(80), 42),
    "16 NPUs x 32 blocks": Scenario((16,), lambda: transformer(32), 94),
    "64 NPUs (8x8) x 32 blocks": Scenario((8, 8), lambda: transformer(32), 566),
}


def engine_of(scenario: Scenario, backend: str) -> Engine:
    """An engine for a scenario: rings of 50 GB/s and 500 ns."""
    rank = len(scenario.dimensions)
    network = NetworkConfig(
        topology=("Ring",) * rank,
        npus_count=scenario.dimensions,
        bandwidth_gbps=(50.0,) * rank,
        latency_ns=(500.0,) * rank,
    )
    system = SystemConfig(
        all_reduce=("ring",) * rank, collective_optimization="localBWAware", local_mem_bw_gbps=1600
    )
    return Engine(network, system, options=EngineOptions(backend))


def measure(scenario: Scenario, backend: str, repeats: int) -> tuple[int, int, list[float]]:
    """Finish time in ns, events, and CPU seconds of each repeat."""
    engine = engine_of(scenario, backend)
    template = engine.compile([scenario.graph()] * engine.npu_count)
    durations, sizes = np.array([_COMPUTE_NS]), np.array([_ALL_REDUCE_BYTES])
    seconds, events, finish_ns = [], 0, 0
    for _ in range(repeats):
        events_before, start_ns = engine.events, engine.now_ns
        begin = time.process_time()
        engine.submit(template, range(engine.npu_count), durations, sizes, start_ns)
        while engine.advance():
            pass
        seconds.append(time.process_time() - begin)
        events, finish_ns = engine.events - events_before, engine.now_ns - start_ns
    return finish_ns, events, seconds


def count_instructions(name: str, backend: str) -> int:
    """Instructions of one run of a scenario inside the engine's event loop, by callgrind."""
    with TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "--tool=callgrind",
            "--toggle-collect=astra::Simulation::advance*",
            f"--callgrind-out-file={folder}/out",
            sys.executable,
            str(Path(__file__).resolve()),
            "--once",
            name,
            "--network",
            backend,
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _COLLECTED.search(run.stderr)
    if found is None:
        raise RuntimeError(f"valgrind did not say what it collected: {run.stderr[-300:]}")
    return int(found[1])


def report(repeats: int, instructions: bool) -> list[dict[str, object]]:
    """Measure every scenario on both networks."""
    rows: list[dict[str, object]] = []
    for name, scenario in SCENARIOS.items():
        for backend in ("unaware", "aware"):
            finish_ns, events, seconds = measure(scenario, backend, repeats)
            best = min(seconds)
            rows.append(
                {
                    "scenario": name,
                    "network": backend,
                    "finish_ns": finish_ns,
                    "events": events,
                    "min_ms": best * 1e3,
                    "median_ms": median(seconds) * 1e3,
                    "million_events_per_s": events / best / 1e6,
                    "original_ms": scenario.original_ms if backend == "unaware" else None,
                    "instructions": count_instructions(name, backend) if instructions else None,
                }
            )
    return rows


def print_table(rows: list[dict[str, object]]) -> None:
    """Print rows; an empty cell has not been measured."""
    table = Table(*rows[0])
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value or "") for value in row.values()]
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7, help="runs of each scenario (default: %(default)s)")
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--once", choices=SCENARIOS, help="run one scenario once and print nothing")
    parser.add_argument("--network", choices=("unaware", "aware"), default="unaware", help="for --once")
    options = parser.parse_args()
    if options.once is not None:
        measure(SCENARIOS[options.once], options.network, 1)
        return 0
    if options.instructions and shutil.which("valgrind") is None:
        print("error: --instructions: valgrind is not installed; apt-get install valgrind", file=sys.stderr)
        return 2
    rows = report(options.repeat, options.instructions)
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

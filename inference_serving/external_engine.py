"""An external engine: any ASTRA-Sim analytical executable, run on the dumped inputs of each iteration.

For checking this project's engine with one's own build of ASTRA-Sim. Each iteration runs alone, so instances do
not contend for host memory and links; stock ASTRA-Sim has no copy engine, so KV transfers hold up the prefill
instance's collectives; and a process is started for every iteration.
"""

from __future__ import annotations

import heapq
import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from astra_sim import Completion, EngineCounters, NodeKind
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.engine_inputs import write_engine_inputs
from inference_serving.graph_generator import build_graphs
from inference_serving.trace import Trace

_FINISH = re.compile(r"sys\[(\d+)\] finished, (\d+) cycles")


class ExternalEngineError(RuntimeError):
    """The executable did not say when an iteration finishes; the message has its last words."""


class ExternalController:
    """Runs the executable for every submission and keeps the finish times in order of time."""

    def __init__(self, cluster: Cluster, binary: Path) -> None:
        if not binary.is_file() or not os.access(binary, os.X_OK):
            raise InputError(binary, "--engine-binary", "is not an executable file")
        self._cluster = cluster
        self._binary = binary.absolute()
        self._now_ns = 0
        self._tickets = 0
        self._order: list[tuple[int, int, int]] = []
        self._p2p_bytes = 0
        self._nodes = 0

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return self._now_ns

    @property
    def counters(self) -> EngineCounters:
        """Nodes and bytes of the graphs submitted so far; the executable does not tell its events."""
        return EngineCounters(
            0, self._nodes, self._p2p_bytes, 0, len({ticket for _, ticket, _ in self._order})
        )

    def submit(self, trace: Trace, at_ns: int) -> int:
        """Run one iteration in the executable; returns its ticket.

        The iteration ends when the last of the instance's NPUs has finished, the KV for a decode instance has
        landed when the last of that instance's NPUs has. Raises ExternalEngineError.
        """
        ticket, self._tickets = self._tickets, self._tickets + 1
        finish_ns = self._run(trace)
        for part, npus in trace.shape.npus_of_part.items():
            heapq.heappush(self._order, (at_ns + max(finish_ns[npu] for npu in npus), ticket, part))
        self._count(trace)
        return ticket

    def advance(self, until_ns: int | None) -> list[Completion]:
        """The completions of the next time at which there are any, or none until ``until_ns``."""
        if not self._order or (until_ns is not None and self._order[0][0] > until_ns):
            self._now_ns = self._now_ns if until_ns is None else until_ns
            return []
        self._now_ns = self._order[0][0]
        done = []
        while self._order and self._order[0][0] == self._now_ns:
            finish_ns, ticket, part = heapq.heappop(self._order)
            done.append(Completion(ticket, part, finish_ns))
        return done

    def stall_report(self) -> list[str]:
        """Nothing: an iteration that never finishes is an error when it is submitted."""
        return []

    def _run(self, trace: Trace) -> dict[int, int]:
        """Finish time of every NPU that takes part, in ns from the start of the iteration."""
        with TemporaryDirectory(prefix="llmservingsim-") as name:
            folder = Path(name)
            write_engine_inputs(folder, self._cluster, trace, "astra-sim")
            groups = folder / "comm_group.json"
            flags = {
                "workload-configuration": folder / "llm",
                "system-configuration": folder / "system.json",
                "network-configuration": folder / "network.yml",
                "remote-memory-configuration": folder / "memory_expansion.json",
                "comm-group-configuration": groups if groups.read_text().strip() != "{}" else "empty",
            }
            command = [str(self._binary), *(f"--{key}={value}" for key, value in flags.items())]
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        finish_ns = {int(npu): int(cycles) for npu, cycles in _FINISH.findall(run.stdout + run.stderr)}
        missing = [npu for npu in trace.shape.npus if npu not in finish_ns]
        if missing:
            words = " / ".join((run.stderr or run.stdout).strip().splitlines()[-3:])
            raise ExternalEngineError(
                f"{self._binary.name} ended with exit code {run.returncode} and no finish line for NPU "
                f"{', '.join(map(str, missing))}: {words or 'it printed nothing'}"
            )
        return finish_ns

    def _count(self, trace: Trace) -> None:
        for graph in build_graphs(trace.shape):
            self._nodes += len(graph.nodes)
            sends = (node.size_slot for node in graph.nodes if node.kind == NodeKind.SEND)
            self._p2p_bytes += sum(int(trace.sizes[slot]) for slot in sends if slot is not None)

"""What a finished run says: ASTRA-Sim's finish lines and the time statistics of each NPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.engine import Engine, NpuStats
from astra_sim.graph import Graph, NodeKind


class Report:
    """The report of a run of one ticket whose graphs sat on NPUs 0, 1, ...

    ``replayed_ns`` are the durations by slot of a replay-only run; there all nodes count as compute.
    """

    def __init__(
        self, engine: Engine, graphs: Sequence[Graph], replayed_ns: NDArray[np.int64] | None = None
    ) -> None:
        self._engine = engine
        self._graphs = graphs
        self._replayed_ns = replayed_ns

    def write(self, folder: str | None) -> None:
        """Print the report; with ``folder`` also append it to ``folder``/log.log."""
        lines = list(self._lines())
        for line in lines:
            print(line)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with (Path(folder) / "log.log").open("a", encoding="utf-8") as log:
                log.writelines(f"{line}\n" for line in lines)

    def _lines(self) -> Iterator[str]:
        stamp = datetime.now().isoformat(sep=" ", timespec="milliseconds")
        stats = [(npu, self._engine.npu_stats(npu)) for npu in range(len(self._graphs))]
        finished = [(npu, s) for npu, s in stats if s.nodes_finished == len(self._graphs[npu].nodes)]
        for npu, stat in sorted(finished, key=lambda entry: entry[1].finish_ns):
            yield (
                f"[{stamp}] [workload] [info] sys[{npu}] finished, {stat.finish_ns} cycles, "
                f"exposed communication {stat.finish_ns - self._computing_ns(npu, stat)} cycles."
            )
            for line in self._statistics(npu, stat):
                yield f"[{stamp}] [statistics] [info] {line}"

    def _computing_ns(self, npu: int, stat: NpuStats) -> int:
        if self._replayed_ns is None:
            return stat.compute_ns
        slots = [node.duration_slot for node in self._graphs[npu].nodes if not node.is_cpu_op]
        return sum(max(1, int(self._replayed_ns[slot])) for slot in slots if slot is not None)

    def _statistics(self, npu: int, stat: NpuStats) -> Iterator[str]:
        kinds = {(node.kind, node.is_cpu_op) for node in self._graphs[npu].nodes}
        yield f"sys[{npu}]. Post statistics processing start."
        yield f"sys[{npu}], Wall time: {stat.finish_ns}"
        if any(is_cpu for _, is_cpu in kinds):
            yield f"sys[{npu}], CPU time: {stat.cpu_ns}"
        if (NodeKind.COMP, False) in kinds:
            yield f"sys[{npu}], GPU time: {stat.compute_ns}"
        if any(kind in (NodeKind.COLL, NodeKind.SEND, NodeKind.RECV) for kind, _ in kinds):
            yield f"sys[{npu}], Comm time: {stat.communication_ns}"
        if any(kind in (NodeKind.MEM_LOAD, NodeKind.MEM_STORE) for kind, _ in kinds):
            yield f"sys[{npu}], Remote mem time: {stat.memory_ns}"
        overlap = stat.compute_ns + stat.communication_ns - stat.finish_ns
        if overlap > 0:
            yield f"sys[{npu}], Total compute-communication overlap: {overlap}"
        yield f"sys[{npu}]. Post statistics processing end."

"""What a finished run says: ASTRA-Sim's finish lines and time statistics of each NPU, or the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astra_sim.engine import Engine, NpuStats
from astra_sim.graph import Graph, NodeKind
from astra_sim.system_config import SystemConfig


class Report:
    """The report of a run of one ticket whose graphs sat on NPUs 0, 1, ...

    ``replayed_ns`` are the durations by slot of a replay-only run; there all nodes count as compute.
    """

    def __init__(
        self,
        engine: Engine,
        graphs: Sequence[Graph],
        system: SystemConfig,
        replayed_ns: NDArray[np.int64] | None = None,
    ) -> None:
        self._engine = engine
        self._graphs = graphs
        self._system = system
        self._replayed_ns = replayed_ns

    def write(self, folder: str | None, *, as_json: bool = False) -> None:
        """Print the report; with ``folder`` also append its lines to ``folder``/log.log."""
        lines = list(self._lines())
        print(json.dumps(self._facts(), indent=2) if as_json else "\n".join(lines))
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with (Path(folder) / "log.log").open("a", encoding="utf-8") as log:
                log.writelines(f"{line}\n" for line in lines)

    def _finished(self) -> list[tuple[int, NpuStats]]:
        """NPUs whose nodes have all finished, in order of their end."""
        stats = [(npu, self._engine.npu_stats(npu)) for npu in range(len(self._graphs))]
        finished = [(npu, s) for npu, s in stats if s.nodes_finished == len(self._graphs[npu].nodes)]
        return sorted(finished, key=lambda entry: entry[1].finish_ns)

    def _lines(self) -> Iterator[str]:
        stamp = datetime.now().isoformat(sep=" ", timespec="milliseconds")
        for npu, stat in self._finished():
            yield (
                f"[{stamp}] [workload] [info] sys[{npu}] finished, {stat.finish_ns} cycles, "
                f"exposed communication {self._exposed_ns(npu, stat)} cycles."
            )
            yield f"[{stamp}] [statistics] [info] sys[{npu}]. Post statistics processing start."
            for name, value in self._statistics(npu, stat).items():
                yield f"[{stamp}] [statistics] [info] sys[{npu}], {name}: {value}"
            yield f"[{stamp}] [statistics] [info] sys[{npu}]. Post statistics processing end."

    def _facts(self) -> dict[str, Any]:
        counters = self._engine.counters
        return {
            "npus": [
                {
                    "npu": npu,
                    "finish_cycles": stat.finish_ns,
                    "exposed_communication_cycles": self._exposed_ns(npu, stat),
                    "statistics": self._statistics(npu, stat),
                }
                for npu, stat in sorted(self._finished())
            ],
            "unfinished_npus": sorted(set(range(len(self._graphs))) - {npu for npu, _ in self._finished()}),
            "events": counters.events,
            "nodes_finished": counters.nodes_finished,
            "p2p_bytes": counters.p2p_bytes,
            "collective_bytes": counters.collective_bytes,
        }

    def _exposed_ns(self, npu: int, stat: NpuStats) -> int:
        return stat.finish_ns - self._computing_ns(npu, stat)

    def _computing_ns(self, npu: int, stat: NpuStats) -> int:
        if self._replayed_ns is None:
            return stat.compute_ns
        slots = [node.duration_slot for node in self._graphs[npu].nodes if not node.is_cpu_op]
        return sum(max(1, int(self._replayed_ns[slot])) for slot in slots if slot is not None)

    def _statistics(self, npu: int, stat: NpuStats) -> dict[str, int | float]:
        """ASTRA-Sim's statistics by their names; times in ns."""
        kinds = {(node.kind, node.is_cpu_op) for node in self._graphs[npu].nodes}
        facts: dict[str, int | float] = {"Wall time": stat.finish_ns}
        if any(is_cpu for _, is_cpu in kinds):
            facts["CPU time"] = stat.cpu_ns
        if (NodeKind.COMP, False) in kinds:
            facts["GPU time"] = stat.compute_ns
        if any(kind in (NodeKind.COLL, NodeKind.SEND, NodeKind.RECV) for kind, _ in kinds):
            facts["Comm time"] = stat.communication_ns
        if any(kind in (NodeKind.MEM_LOAD, NodeKind.MEM_STORE) for kind, _ in kinds):
            facts["Remote mem time"] = stat.memory_ns
        overlap = stat.compute_ns + stat.communication_ns - stat.finish_ns
        if overlap > 0:
            facts["Total compute-communication overlap"] = overlap
        return facts | self._roofline(stat)

    def _roofline(self, stat: NpuStats) -> dict[str, float]:
        """Utilisation over the time of the NPU's roofline nodes; the definitions are ours (docs/engine.md)."""
        seconds = stat.roofline_ns / 1e9
        peak, bandwidth = self._system.peak_perf_tflops, self._system.local_mem_bw_gbps
        if seconds == 0 or peak is None or bandwidth is None:
            return {}
        return {
            "Compute bound percentage": round(100 * stat.compute_bound_ns / stat.roofline_ns, 3),
            "Average compute utilization": round(100 * stat.operations / (peak * 1e12 * seconds), 3),
            "Average memory utilization": round(100 * stat.tensor_bytes / (bandwidth * 1e9 * seconds), 3),
            "Average operation intensity": round(stat.operations / stat.tensor_bytes, 3),
        }

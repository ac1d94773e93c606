"""A run as a timeline for chrome://tracing and ui.perfetto.dev: one track per unit of an NPU, one per link."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from astra_sim.engine import Engine, LinkSpan, NodeSpan
from astra_sim.graph import Graph, Node, NodeKind

_NS_PER_US = 1000
_LINKS = "links"


def write_timeline(path: str | Path, engine: Engine, graphs: Sequence[Graph]) -> None:
    """Write what ``engine`` has recorded as Chrome trace events (times in us).

    A process per NPU with a thread per unit (compute, communication, memory, CPU; receives may overlap and
    get a thread each), and a process ``links`` with a thread per link.
    """
    nodes = [{node.node_id: node for node in graph.nodes} for graph in graphs]
    events = [*_npu_events(engine.node_spans(), nodes), *_link_events(engine.link_spans(), len(graphs))]
    data = {"displayTimeUnit": "ns", "traceEvents": events}
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
    temporary.replace(path)


def _npu_events(spans: Iterable[NodeSpan], nodes: Sequence[dict[int, Node]]) -> Iterator[dict[str, Any]]:
    tracks = _Tracks()
    for span in spans:
        node = nodes[span.npu][span.node_id]
        unit = _unit(node)
        lane = tracks.lane(span.npu, unit, span.begin_ns, span.end_ns)
        yield from tracks.new_names(span.npu, f"NPU {span.npu}")
        yield _event(
            node.name or node.kind.name, span.npu, lane, span.begin_ns, span.end_ns, {"node": span.node_id}
        )


def _link_events(spans: Iterable[LinkSpan], process: int) -> Iterator[dict[str, Any]]:
    tracks = _Tracks()
    for span in spans:
        lane = tracks.lane(process, span.link, span.begin_ns, span.end_ns)
        yield from tracks.new_names(process, _LINKS)
        name = f"{span.source} -> {span.destination}"
        yield _event(name, process, lane, span.begin_ns, span.end_ns, {"bytes": span.bytes})


def _unit(node: Node) -> str:
    if node.is_cpu_op:
        return "CPU"
    if node.pim_channel is not None:
        return f"PIM channel {node.pim_channel}"
    if node.kind == NodeKind.COMP:
        return "compute"
    if node.kind in (NodeKind.MEM_LOAD, NodeKind.MEM_STORE):
        return "memory"
    if node.kind == NodeKind.RECV:
        return "receive"
    return "copy engine" if node.copy_engine else "communication"


def _event(
    name: str, process: int, thread: int, begin_ns: int, end_ns: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "pid": process,
        "tid": thread,
        "ts": begin_ns / _NS_PER_US,
        "dur": (max(end_ns, begin_ns) - begin_ns) / _NS_PER_US,
        "args": args,
    }


class _Tracks:
    """Numbers the threads of processes; spans of one name that overlap are put on threads beside each other."""

    def __init__(self) -> None:
        self._busy_until: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self._threads: dict[int, int] = {}
        self._unnamed: list[tuple[int, int, str]] = []
        self._named: set[int] = set()

    def lane(self, process: int, name: str, begin_ns: int, end_ns: int) -> int:
        """Thread on which a span has room."""
        lanes = self._busy_until.setdefault((process, name), [])
        for index, (thread, busy_until) in enumerate(lanes):
            if busy_until <= begin_ns:
                lanes[index] = (thread, end_ns)
                return thread
        thread = self._threads[process] = self._threads.get(process, -1) + 1
        lanes.append((thread, end_ns))
        self._unnamed.append((process, thread, name if len(lanes) == 1 else f"{name} {len(lanes)}"))
        return thread

    def new_names(self, process: int, process_name: str) -> Iterator[dict[str, Any]]:
        """Metadata events that name what has come up since the last call."""
        if process not in self._named:
            self._named.add(process)
            yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": process_name}}
        for pid, thread, name in self._unnamed:
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": thread, "args": {"name": name}}
        self._unnamed.clear()

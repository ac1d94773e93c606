"""Writes chosen iterations as text traces, Chakra ``.et`` files and the engine's other inputs.

Each iteration gets a folder of its own, ``instance_I/iteration_K``, that ``python -m astra_sim`` runs with
the same cycles as the iteration had here; with pipeline stages a folder ``stage_S`` in it for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inference_serving.cluster import Cluster, InstanceSpec, Role
from inference_serving.engine_inputs import write_engine_inputs
from inference_serving.files import write_whole
from inference_serving.instance import Instance
from inference_serving.request import Batch
from inference_serving.scheduler import IterationOutcome
from inference_serving.settings import DumpSettings
from inference_serving.trace import Trace, TraceRow

_HEADER = (
    "Layername",
    "comp_time",
    "input_loc",
    "input_size",
    "weight_loc",
    "weight_size",
    "output_loc",
    "output_size",
    "comm_type",
    "comm_size",
    "misc",
)
_WIDTHS = (30, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15)


class TraceDump:
    """Observes a run and writes the iterations that were asked for."""

    def __init__(self, settings: DumpSettings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """Write the iteration if it is one of the chosen."""
        assert instance.in_flight is not None
        number = instance.in_flight.number
        if number not in self._settings.iterations:
            return
        folder = self._settings.folder / f"instance_{instance.instance_id}" / f"iteration_{number}"
        if trace.shape.stage is not None:
            folder /= f"stage_{trace.shape.stage.part}"
        write_whole(folder / "trace.txt", trace_text(instance.spec, trace.rows()))
        write_engine_inputs(folder, self._cluster, trace, self._settings.et_dialect)

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """Nothing to write."""


def trace_text(instance: InstanceSpec, rows: Iterable[TraceRow]) -> str:
    """The published text form: a line with the kind of instance, the number of rows, a header, the rows."""
    kind = "COLOCATED" if instance.role is Role.COLOCATED else instance.role.name
    lines = list(_body(rows))
    head = [f"{kind}\t\tmodel_parallel_NPU_group: {instance.pp_size}", str(len(lines)), _line(_HEADER)]
    return "\n".join(head + lines) + "\n"


def _body(rows: Iterable[TraceRow]) -> Iterator[str]:
    """Lines of the rows, with those that open and close parallel sections: sub-batches, experts, PIM channels."""
    inside, half = "", None
    for row in rows:
        kind, number = _section(row)
        if inside and inside != kind:
            yield f"{inside} END"
        if row.sub_batch != half:
            half = row.sub_batch
            yield f"BATCH {half}"
        inside = kind
        if inside:
            yield f"{kind} {number}"
        yield _line(_columns(row))
    if inside:
        yield f"{inside} END"
    if half is not None:
        yield "BATCH END"


def _section(row: TraceRow) -> tuple[str, int]:
    """The parallel section that a row is alone in; no name if it is in none."""
    if row.expert is not None:
        return "EXPERT", row.expert
    return ("", 0) if row.pim_channel is None else ("PIM", row.pim_channel)


def _columns(row: TraceRow) -> tuple[str, ...]:
    return (
        row.name,
        str(row.comp_ns),
        row.input_loc,
        str(row.input_bytes),
        row.weight_loc,
        str(row.weight_bytes),
        row.output_loc,
        str(row.output_bytes),
        row.comm_type,
        str(row.comm_bytes),
        row.misc,
    )


def _line(columns: Iterable[str]) -> str:
    return "".join(f"{column:<{width}}" for column, width in zip(columns, _WIDTHS, strict=True))

"""The execution trace of one iteration: its structure and its numbers, and rows as in the published text trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from inference_serving.experts.times import ExpertWork
from inference_serving.request import Int64Array
from inference_serving.trace_shape import (
    ALL_REDUCE_SLOT,
    SAMPLED_IDS_SLOT,
    TOKEN_IDS_SLOT,
    KvMove,
    MemoryAccess,
    RowShape,
    TraceShape,
)
from llm_profile.layers import (
    EXPERTS,
    expert_shapes,
    layer_shape,
    stored_elements,
)

_SHOWN_BY_OUTPUT = frozenset(("attn", "act_fn"))
_OWN_OUTPUT = frozenset(("v_proj", "rope"))


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One line of the published text trace; times in ns, sizes in bytes."""

    name: str
    comp_ns: int
    input_loc: str
    input_bytes: int
    weight_loc: str
    weight_bytes: int
    output_loc: str
    output_bytes: int
    comm_type: str
    comm_bytes: int
    misc: str = "NONE"
    expert: int | None = None
    """Group of experts whose section the row is; None: it is in none."""
    pim_channel: int | None = None
    """Channel of host memory that computes the row; None: the NPU does."""
    sub_batch: int | None = None
    """Half of the batch; None: it is not split."""


@dataclass(slots=True)  # made in every iteration; frozen, it would take twice as long
class Trace:
    """One iteration: its structure, and the numbers that its slots refer to."""

    shape: TraceShape
    durations_ns: Int64Array
    sizes: Int64Array
    tokens: int
    experts: ExpertWork | None = None
    """What the experts do; None for a dense model."""
    pim_tasks: Int64Array | None = None
    """K/V heads of requests on each leading channel of a rank; None: attention is on the NPU."""
    halves: tuple[Trace, ...] = ()
    """The two sub-batches whose numbers these are, one after the other, if it is split."""

    def rows(self) -> Iterator[TraceRow]:
        """Typed rows in execution order, as the published text trace shows them (one rank's sizes).

        A row's output is the next row's input; k and v results meet in rope, so v_proj shows its own. The last
        row of a layer group shows its own, too: the hidden states that the next group takes in. KV that is loaded
        or evicted comes first, KV that is stored last. Sub-batches follow one another.
        """
        for number, half in enumerate(self.halves):
            yield from (replace(row, sub_batch=number) for row in half.rows())
        if self.halves:
            return
        layers = self.shape.rows
        yield from (self._move_row(move) for move in self.shape.moves if move.kind.name != "kv_store")
        for row, following in zip(layers, (*layers[1:], None), strict=True):
            if row.layer == EXPERTS:
                yield from self._expert_rows(row)
            elif row.on_npu:
                yield self._row(row, following)
            if row.from_pim is not None:
                yield from self._pim_rows(row, row.from_pim)
        yield from (self._move_row(move) for move in self.shape.moves if move.kind.name == "kv_store")

    def _move_row(self, move: KvMove) -> TraceRow:
        moved = int(self.sizes[move.access.slot])
        place = move.kind.place.column(self.shape.instance.node_id)
        incoming = (place, moved, "LOCAL", 0, "LOCAL", moved)
        outgoing = ("LOCAL", moved, "LOCAL", 0, place, moved)
        return TraceRow(
            move.kind.name, 0, *(incoming if move.kind.name == "kv_load" else outgoing), "NONE", 0
        )

    def _row(self, row: RowShape, following: RowShape | None) -> TraceRow:
        instance = self.shape.instance
        weights = stored_elements(instance.model, row.layer, instance.tp_size, instance.ep_size)
        host = f"REMOTE:{instance.node_id}"
        comm_type, comm_bytes, misc = self._communication(row)
        if following is None and self.shape.hands_on is not None:
            misc = f"TO_STAGE_{self.shape.hands_on.stage}:{self.sizes[self.shape.hands_on.slot]}"
        return TraceRow(
            name=row.name,
            comp_ns=int(self.durations_ns[self.shape.duration_slot(row)]),
            input_loc=host if row.loads_token_ids else "LOCAL",
            input_bytes=self._input_bytes(row),
            weight_loc=row.place.column(instance.node_id),
            weight_bytes=weights * instance.precision.weight_bits // 8,
            output_loc=host if row.stores_sampled_ids else "LOCAL",
            output_bytes=self._output_bytes(row, following),
            comm_type=comm_type,
            comm_bytes=comm_bytes,
            misc=misc,
        )

    def _expert_rows(self, row: RowShape) -> Iterator[TraceRow]:
        """The experts of a block as in the published trace: a section for each rank that has experts of its own.

        Sizes are those of the three matrices of each expert, by the tokens that came to the rank's experts.
        """
        assert self.experts is not None
        instance = self.shape.instance
        shapes = expert_shapes(instance.model, instance.expert_tp_size)
        matrices = [shape for shape in shapes.values() if shape.weight_elements]
        weights = (
            sum(shape.weight_elements for shape in matrices) * instance.model.num_experts // instance.ep_size
        )
        stem, number = row.name.rsplit("_", 1)
        comm_type, comm_bytes, misc = self._communication(row)
        element = instance.precision.weight_bits
        for rank in range(instance.expert_groups):
            assignments = int(self.experts.assignments[row.draw * instance.expert_groups + rank])
            yield TraceRow(
                name=f"{stem}_{int(number) + 2 * rank}",
                comp_ns=int(self.durations_ns[self.shape.duration_slot(row, rank)]),
                input_loc="LOCAL",
                input_bytes=assignments * sum(shape.input_width for shape in matrices) * element // 8,
                weight_loc=row.place.column(instance.node_id),
                weight_bytes=weights * element // 8,
                output_loc="LOCAL",
                output_bytes=assignments * sum(shape.output_width for shape in matrices) * element // 8,
                comm_type=comm_type,
                comm_bytes=comm_bytes,
                misc=misc,
                expert=rank,
            )

    def _pim_rows(self, row: RowShape, results: MemoryAccess) -> Iterator[TraceRow]:
        """Attention in memory as in the published trace: a section for each channel of a rank.

        Input is what was sent there (queries and new KV), output the results.
        """
        instance = self.shape.instance
        assert self.pim_tasks is not None
        assert self.shape.pim_rows is not None
        assert instance.pim is not None
        stem, number = row.name.rsplit("_", 1)
        sent, _ = self.shape.pim_rows
        tasks = int(self.pim_tasks.sum()) * instance.pim.unison
        for index, channel in enumerate(instance.pim.channels_of_rank(0, instance.tp_size)):
            place, leader = f"REMOTE:{instance.node_id}.{channel}", index // instance.pim.unison
            own = int(self.pim_tasks[leader])
            yield TraceRow(
                name=f"{stem}_{int(number) + row.on_npu + 2 * index + 1}",
                comp_ns=int(self.durations_ns[self.shape.first_pim_slot + leader]),
                input_loc=place,
                input_bytes=int(self.sizes[sent.slot]) * own // tasks,
                weight_loc="LOCAL",
                weight_bytes=0,
                output_loc=place,
                output_bytes=int(self.sizes[results.slot]) * own // tasks,
                comm_type="NONE",
                comm_bytes=0,
                pim_channel=channel,
            )

    def _input_bytes(self, row: RowShape) -> int:
        if row.loads_token_ids:
            return int(self.sizes[TOKEN_IDS_SLOT])
        instance = self.shape.instance
        if row.layer == EXPERTS:  # what the router hands on are the hidden states
            return self.tokens * instance.model.hidden_size * instance.precision.weight_bits // 8
        shape = layer_shape(instance.model, row.layer, instance.tp_size)
        # attention is shown by its queries, the activation by one of its two equal inputs
        width = shape.output_width if row.layer in _SHOWN_BY_OUTPUT else shape.input_width
        return self.tokens * width * instance.precision.weight_bits // 8

    def _output_bytes(self, row: RowShape, following: RowShape | None) -> int:
        if row.stores_sampled_ids:
            return int(self.sizes[SAMPLED_IDS_SLOT])
        if following is None or row.layer in _OWN_OUTPUT:
            instance = self.shape.instance
            width = layer_shape(instance.model, row.layer, instance.tp_size).output_width
            return self.tokens * width * instance.precision.weight_bits // 8
        return self._input_bytes(following)

    def _communication(self, row: RowShape) -> tuple[str, int, str]:
        if row.all_reduce:
            return "ALLREDUCE", int(self.sizes[ALL_REDUCE_SLOT]), "NONE"
        if row.kv_ready:
            return "SEND", self.shape.kv_sent_bytes(row, self.sizes), "KV"
        named = (("KV_READ", row.kv_read), ("KV_WRITE", row.kv_write), ("TO_PIM", row.to_pim))
        moved = [(name, access) for name, access in named if access is not None]
        if moved:
            node = self.shape.instance.node_id
            moves = (f"{name}:{one.place.column(node)}:{self.sizes[one.slot]}" for name, one in moved)
            return "NONE", 0, ",".join(moves)
        if row.dispatches or row.combines:
            size = int(self.sizes[self.shape.all_to_all_slot(row.draw)])
            return "ALLTOALL", size, "ALLGATHER" if row.combines else "NONE"
        return "NONE", 0, "NONE"

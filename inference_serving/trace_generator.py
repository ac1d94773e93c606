"""From a batch to the execution trace of one iteration: what every layer costs and what moves.

The trace of an iteration is a :class:`~inference_serving.trace_shape.TraceShape` (cached) and two short
vectors of numbers; typed rows, as in the published text trace, are made from them only for export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from inference_serving.cluster import InstanceSpec
from inference_serving.layer_group import LayerGroup
from inference_serving.layer_times import LayerTimes, ProvenanceTally
from inference_serving.request import Batch, Int64Array
from inference_serving.trace_shape import (
    ALL_REDUCE_SLOT,
    DURATION_SLOT,
    SAMPLED_IDS_SLOT,
    TOKEN_IDS_SLOT,
    KvMove,
    KvMoveKind,
    RowShape,
    TraceShape,
    build_shape,
)
from llm_profile.latency import LatencyModel, Source
from llm_profile.layers import kv_bytes_per_token, layer_shape

TOKEN_ID_BYTES = 4
NO_MOVES: Mapping[KvMoveKind, int] = MappingProxyType({})
_ATTENTION = DURATION_SLOT["attn"]
_LM_HEAD = DURATION_SLOT["lm_head"]
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


@dataclass(frozen=True, slots=True)
class Trace:
    """One iteration: its structure, and the numbers that its slots refer to."""

    shape: TraceShape
    durations_ns: Int64Array
    sizes: Int64Array
    tokens: int

    def rows(self) -> Iterator[TraceRow]:
        """Typed rows in execution order, as the published text trace shows them (one rank's sizes).

        A row's output is the next row's input; k and v results meet in rope, so v_proj shows its own. The last
        row of a layer group shows its own, too: the hidden states that the next group takes in. KV that is loaded
        or evicted comes first, KV that is stored last.
        """
        layers = self.shape.rows
        yield from (self._move_row(move) for move in self.shape.moves if move.kind.name != "kv_store")
        for row, following in zip(layers, (*layers[1:], None), strict=True):
            yield self._row(row, following)
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
        weights = layer_shape(instance.model, row.layer, instance.tp_size).weight_elements
        host = f"REMOTE:{instance.node_id}"
        comm_type, comm_bytes, misc = self._communication(row)
        return TraceRow(
            name=row.name,
            comp_ns=int(self.durations_ns[DURATION_SLOT[row.layer]]),
            input_loc=host if row.loads_token_ids else "LOCAL",
            input_bytes=self._input_bytes(row),
            weight_loc=self._weight_column(row),
            weight_bytes=weights * instance.precision.weight_bits // 8,
            output_loc=host if row.stores_sampled_ids else "LOCAL",
            output_bytes=self._output_bytes(row, following),
            comm_type=comm_type,
            comm_bytes=comm_bytes,
            misc=misc,
        )

    def _weight_column(self, row: RowShape) -> str:
        """Where the layer's weights are; the published rows name a block's place for layers without any, too."""
        instance = self.shape.instance
        return instance.placement.weights[int(row.name.rpartition("_")[2])].column(instance.node_id)

    def _input_bytes(self, row: RowShape) -> int:
        if row.loads_token_ids:
            return int(self.sizes[TOKEN_IDS_SLOT])
        instance = self.shape.instance
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
            return "SEND", int(self.sizes[self.shape.kv_sent_slots].sum()), "KV"
        for name, access in (("KV_READ", row.kv_read), ("KV_WRITE", row.kv_write)):
            if access is not None:
                column = access.place.column(self.shape.instance.node_id)
                return "NONE", 0, f"{name}:{column}:{self.sizes[access.slot]}"
        return "NONE", 0, "NONE"


class TraceGenerator:
    """Makes the traces of one instance."""

    def __init__(self, instance: InstanceSpec, latency: LatencyModel) -> None:
        self._instance = instance
        self._latency = latency
        self._layer_times = LayerTimes(latency)
        self._provenance = ProvenanceTally(latency, instance.model.num_hidden_layers)
        self._shapes: dict[tuple[LayerGroup, tuple[int, ...], tuple[KvMoveKind, ...]], TraceShape] = {}
        self._kv_layer_bytes = kv_bytes_per_token(
            instance.model, instance.tp_size, instance.precision.kv_bits
        )
        self._hidden_bytes = instance.model.hidden_size * instance.precision.weight_bits // 8

    def synthesize_trace(
        self,
        batch: Batch,
        kv_tokens: Mapping[int, int],
        decode_instances: Mapping[int, InstanceSpec],
        moves: Mapping[KvMoveKind, int] = NO_MOVES,
    ) -> Trace:
        """Trace of one iteration, or of the layer group of it that ``batch`` names.

        ``kv_tokens`` says how many tokens of KV go to each decode instance (by instance id) as the layers
        finish; the embedding reads the token ids from host memory and the sampled ids go back there. ``moves``
        has the bytes of each NPU that KV elsewhere takes with it.
        """
        tokens = batch.total_tokens
        durations_ns = self._layer_times.of(tokens).copy()
        attention = (*batch.prefill_chunks(), batch.decode_kv())
        attention_ns = self._latency.attention_ns(*attention)
        durations_ns[_ATTENTION] = attention_ns
        shape = self._shape(batch.layer_group, tuple(sorted(kv_tokens)), decode_instances, tuple(moves))
        self._provenance.count(batch, len(shape.blocks), attention, attention_ns)
        durations_ns[_LM_HEAD] = self._layer_times.of(batch.sequences)[_LM_HEAD]
        sizes = self._sizes(shape, batch, kv_tokens)
        for move, moved in zip(shape.moves, moves.values(), strict=True):
            sizes[move.access.slot] = moved
        return Trace(shape, durations_ns, sizes, tokens)

    def provenance_ns(self) -> Mapping[Source, int]:
        """Compute time of all iterations so far by how its latencies came about."""
        return self._provenance.time_ns(self._layer_times)

    def _sizes(self, shape: TraceShape, batch: Batch, kv_tokens: Mapping[int, int]) -> Int64Array:
        sizes = shape.fixed_sizes.copy()
        sizes[TOKEN_IDS_SLOT] = batch.total_tokens * TOKEN_ID_BYTES
        sizes[SAMPLED_IDS_SLOT] = batch.sequences * TOKEN_ID_BYTES
        sizes[ALL_REDUCE_SLOT] = batch.total_tokens * self._hidden_bytes
        for target in shape.targets:
            tokens = kv_tokens[target.instance.instance_id]
            for slot, transfer in enumerate(target.transfers, start=target.first_slot):
                sizes[slot] = transfer.bytes_for(
                    tokens, self._instance.model, self._instance.precision.kv_bits
                )
        if shape.streams_kv is not None:
            read, write = shape.streams_kv
            sizes[read.slot] = self._kv_layer_bytes * int(batch.context.dot(batch.grants > 0))
            sizes[write.slot] = self._kv_layer_bytes * batch.total_tokens
        return sizes

    def _shape(
        self,
        layer_group: LayerGroup,
        targets: tuple[int, ...],
        decode_instances: Mapping[int, InstanceSpec],
        moves: tuple[KvMoveKind, ...],
    ) -> TraceShape:
        key = layer_group, targets, moves
        if key not in self._shapes:
            receivers = tuple(decode_instances[target] for target in targets)
            self._shapes[key] = build_shape(self._instance, receivers, layer_group, moves)
        return self._shapes[key]

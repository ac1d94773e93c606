"""From a batch to the execution trace of one iteration: what every layer costs and what moves.

The trace of an iteration is a :class:`~inference_serving.trace_shape.TraceShape` (cached) and two short
vectors of numbers; typed rows, as in the published text trace, are made from them only for export.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.experts.times import ExpertTally, ExpertTimes, ExpertWork, WaveShare
from inference_serving.gate_function import Balanced, ExpertRouting
from inference_serving.layer_times import LayerTimes, ProvenanceTally
from inference_serving.memory_model import activation_bytes
from inference_serving.pim.trace import offloaded_attention
from inference_serving.pipeline.stage import ModelPart
from inference_serving.request import Batch, Int64Array
from inference_serving.trace_shape import (
    ALL_ON_NPU,
    ALL_REDUCE_SLOT,
    DURATION_SLOT,
    SAMPLED_IDS_SLOT,
    TOKEN_IDS_SLOT,
    AttentionSplit,
    KvMove,
    KvMoveKind,
    MemoryAccess,
    RowShape,
    TraceShape,
    build_shape,
)
from llm_profile.latency import LatencyModel, Source
from llm_profile.layers import (
    EXPERTS,
    SHARED_EXPERTS,
    expert_shapes,
    kv_bytes_per_token,
    layer_shape,
    model_layers,
    stored_elements,
)

TOKEN_ID_BYTES = 4
NO_MOVES: Mapping[KvMoveKind, int] = MappingProxyType({})
_ATTENTION = DURATION_SLOT["attn"]
_LM_HEAD = DURATION_SLOT["lm_head"]
_SHARED_EXPERTS = DURATION_SLOT[SHARED_EXPERTS]
_NONE: Int64Array = np.empty(0, dtype=np.int64)
_ShapeKey = tuple[ModelPart, tuple[int, ...], tuple[KvMoveKind, ...], AttentionSplit]
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


@dataclass(slots=True)  # made in every iteration, as a Trace
class _BatchWork:
    """Times of a whole batch, whichever of its parts run: where attention runs, what the experts and channels do."""

    durations_ns: Int64Array
    split: AttentionSplit
    experts: ExpertWork | None
    wave: WaveShare | None
    pim_tasks: Int64Array | None


class TraceGenerator:
    """Makes the traces of one instance."""

    def __init__(
        self, instance: InstanceSpec, latency: LatencyModel, routing: ExpertRouting | None = None
    ) -> None:
        self._instance = instance
        self._latency = latency
        self._layer_times = LayerTimes(latency, model_layers(instance.model))
        self._provenance = ProvenanceTally(latency, instance.model, instance.expert_groups)
        self._experts = _expert_times(instance, latency, routing)
        self._expert_tally = ExpertTally()
        self._offloaded = offloaded_attention(instance)
        self._stages = instance.stages()
        self._shapes: dict[_ShapeKey, TraceShape] = {}
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
        wave: WaveShare | None = None,
    ) -> Trace:
        """Trace of one iteration, or of the layer group of it that ``batch`` names.

        ``kv_tokens`` says how many tokens of KV go to each decode instance (by instance id) as the layers
        finish, ``moves`` has the bytes of each NPU that KV elsewhere takes with it, ``wave`` what the experts do
        where instances share them; the embedding reads the token ids from host memory and the sampled ids go
        back there.
        """
        work = self._work(batch, wave)
        key = batch.layer_group, tuple(sorted(kv_tokens)), tuple(moves), work.split
        return self._trace(self._shape(key, decode_instances), batch, kv_tokens, moves, work)

    def synthesize_stages(
        self,
        batch: Batch,
        kv_tokens: Mapping[int, int],
        decode_instances: Mapping[int, InstanceSpec],
        moves: Sequence[Mapping[KvMoveKind, int]] = (),
        wave: WaveShare | None = None,
    ) -> list[Trace]:
        """Traces of one iteration, a trace for each pipeline stage; ``moves`` are by stage, if there are any.

        The numbers are those of the whole iteration, looked up once: a stage's rows refer to those that it runs.
        """
        receivers = tuple(sorted(kv_tokens))
        moves = moves or [NO_MOVES] * len(self._stages)
        work = self._work(batch, wave)
        traces = []
        for stage, moved in zip(self._stages, moves, strict=True):
            shape = self._shape((stage, receivers, tuple(moved), work.split), decode_instances)
            traces.append(self._trace(shape, batch, kv_tokens, moved, work))
        return traces

    def _trace(
        self,
        shape: TraceShape,
        batch: Batch,
        kv_tokens: Mapping[int, int],
        moves: Mapping[KvMoveKind, int],
        work: _BatchWork,
    ) -> Trace:
        """The trace of a part of an iteration whose times are known."""
        sizes = self._sizes(shape, batch, kv_tokens, moves)
        if work.experts is not None:
            self._expert_tally.count(work.experts, shape.blocks_of_draw)
            self._add_expert_sizes(sizes, shape, batch.total_tokens, work.experts, work.wave)
        return Trace(shape, work.durations_ns, sizes, batch.total_tokens, work.experts, work.pim_tasks)

    def _work(self, batch: Batch, wave: WaveShare | None) -> _BatchWork:
        """Times of a batch."""
        tokens = batch.total_tokens
        durations_ns, experts, pim_tasks = self._layer_times.of(tokens).copy(), None, None
        attention, split = batch.attention(), ALL_ON_NPU
        if self._offloaded is not None:
            attention, split = (*batch.prefill_chunks(), _NONE), self._offloaded.split(batch)
        attention_ns = self._latency.attention_ns(*attention) if split.on_npu else 0
        durations_ns[_ATTENTION] = attention_ns
        durations_ns[_LM_HEAD] = self._layer_times.of(batch.logit_rows)[_LM_HEAD]
        self._provenance.count(batch, attention if split.on_npu else None, attention_ns)
        if self._experts is not None:
            if self._instance.expert_groups > 1:  # shared experts are whole, and run the rank's own tokens
                owned = -(-tokens // self._instance.tp_size)
                durations_ns[_SHARED_EXPERTS] = self._layer_times.of(owned)[_SHARED_EXPERTS]
            experts = self._experts.of(tokens) if wave is None else wave.experts
            durations_ns = np.concatenate([durations_ns, experts.durations_ns])
        if self._offloaded is not None and split.in_memory:
            channel_ns, pim_tasks = self._offloaded.work(batch)
            durations_ns = np.concatenate([durations_ns, channel_ns])
        return _BatchWork(durations_ns, split, experts, wave, pim_tasks)

    @property
    def instance(self) -> InstanceSpec:
        """The instance whose traces these are."""
        return self._instance

    def provenance_ns(self) -> Mapping[Source, int]:
        """Compute time of all iterations so far by how its latencies came about."""
        return self._expert_tally.time_ns + Counter(self._provenance.time_ns(self._layer_times))

    def _add_expert_sizes(
        self, sizes: Int64Array, shape: TraceShape, tokens: int, experts: ExpertWork, wave: WaveShare | None
    ) -> None:
        """Sizes of expert parallelism, see docs/moe.md: each rank owns an even share of its instance's tokens."""
        if self._instance.ep_size == 1:
            return
        owned = -(-tokens // self._instance.tp_size)
        sent = (owned if wave is None else wave.most_owned) * self._instance.model.num_experts_per_tok
        sizes[shape.all_gather_slot] = owned * self._hidden_bytes
        sizes[shape.all_to_all_slots] = np.maximum(experts.busiest, sent) * self._hidden_bytes

    def _sizes(
        self,
        shape: TraceShape,
        batch: Batch,
        kv_tokens: Mapping[int, int],
        moves: Mapping[KvMoveKind, int],
    ) -> Int64Array:
        sizes = shape.fixed_sizes.copy()
        sizes[TOKEN_IDS_SLOT] = batch.total_tokens * TOKEN_ID_BYTES
        sizes[SAMPLED_IDS_SLOT] = batch.logit_rows * TOKEN_ID_BYTES
        sizes[ALL_REDUCE_SLOT] = batch.total_tokens * self._hidden_bytes
        for target in shape.targets:
            tokens = kv_tokens[target.instance.instance_id]
            for slot, transfer in enumerate(target.transfers, start=target.first_slot):
                sizes[slot] = transfer.bytes_for(
                    tokens, self._instance.model, self._instance.precision.kv_bits
                )
        if self._offloaded is not None:
            self._offloaded.add_sizes(sizes, shape, batch)
        elif shape.streams_kv is not None:
            read, write = shape.streams_kv
            sizes[read.slot] = self._kv_layer_bytes * int(batch.context.dot(batch.grants > 0))
            sizes[write.slot] = self._kv_layer_bytes * batch.total_tokens
        if moves:
            for move, moved in zip(shape.moves, moves.values(), strict=True):
                sizes[move.access.slot] = moved
        if shape.activation_slot is not None:
            handed_on = activation_bytes(self._instance.model, self._instance.precision, batch.total_tokens)
            sizes[shape.activation_slot] = -(-handed_on // self._instance.tp_size)
        return sizes

    def _shape(self, key: _ShapeKey, decode_instances: Mapping[int, InstanceSpec]) -> TraceShape:
        if key not in self._shapes:
            part, targets, moves, attention = key
            receivers = tuple(decode_instances[target] for target in targets)
            draws = 1 if self._experts is None else self._experts.draws
            self._shapes[key] = build_shape(self._instance, receivers, part, moves, draws, attention)
        return self._shapes[key]


def _expert_times(
    instance: InstanceSpec, latency: LatencyModel, routing: ExpertRouting | None
) -> ExpertTimes | None:
    """Times of the experts, balanced unless a routing says otherwise; None for a dense model."""
    model = instance.model
    if not model.is_moe:
        return None
    if routing is None:
        routing = Balanced(model.num_experts, model.num_experts_per_tok, np.random.default_rng(0))
    return ExpertTimes(instance, latency, routing)

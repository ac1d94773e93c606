"""From a batch to the execution trace of one iteration: what every layer costs and what moves.

The trace of an iteration is a :class:`~inference_serving.trace_shape.TraceShape` (cached) and two short
vectors of numbers, see :mod:`inference_serving.trace`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from inference_serving.shape_builder import build_shape
from inference_serving.trace import Trace
from inference_serving.trace_shape import (
    ALL_ON_NPU,
    ALL_REDUCE_SLOT,
    DURATION_SLOT,
    SAMPLED_IDS_SLOT,
    TOKEN_IDS_SLOT,
    AttentionSplit,
    KvMoveKind,
    TraceShape,
)
from llm_profile.latency import LatencyModel, Source
from llm_profile.layers import (
    SHARED_EXPERTS,
    kv_bytes_per_token,
    model_layers,
)

TOKEN_ID_BYTES = 4
NO_MOVES: Mapping[KvMoveKind, int] = MappingProxyType({})
_ATTENTION = DURATION_SLOT["attn"]
_LM_HEAD = DURATION_SLOT["lm_head"]
_SHARED_EXPERTS = DURATION_SLOT[SHARED_EXPERTS]
_NONE: Int64Array = np.empty(0, dtype=np.int64)
_ShapeKey = tuple[ModelPart, tuple[int, ...], tuple[KvMoveKind, ...], AttentionSplit]


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

"""Predicted prefill times of one instance: what its latency model and the engine say of a batch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from inference_serving.cluster import Cluster, InstanceSpec
from inference_serving.controller import EngineController
from inference_serving.gate_function import ExpertRouting
from inference_serving.host_overhead import HostOverhead
from inference_serving.layer_group import WHOLE_MODEL, LayerGroup, layer_groups
from inference_serving.request import Batch
from inference_serving.trace import Trace
from inference_serving.trace_generator import TraceGenerator
from inference_serving.trace_shape import DURATION_SLOT
from llm_profile.latency import LatencyModel

ATTENTION_SLOT = DURATION_SLOT["attn"]


class SerialTimes:
    """Time that an iteration spends on anything but layers: collectives, loads and stores.

    Asked of an engine of its own, which nothing else uses, so it is the time without contention.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._engine: EngineController | None = None

    def ns(self, trace: Trace) -> int:
        """Engine time of the trace alone, less its layers' times."""
        return self.wave_ns([trace], 0)

    def wave_ns(self, traces: Sequence[Trace], index: int) -> int:
        """Engine time of traces that run together, less the layers' times of one of them."""
        return self.parts_ns(traces)[0] - layers_ns(traces[index])

    def parts_ns(self, traces: Sequence[Trace]) -> Mapping[int, int]:
        """Engine time of traces that run together until each part of them is done."""
        if self._engine is None:
            self._engine = EngineController(self._cluster)
        start_ns = self._engine.now_ns
        if len(traces) > 1:
            self._engine.submit_wave(traces, start_ns)
        else:
            self._engine.submit(traces[0], start_ns)
        parts: dict[int, int] = {}
        while len(parts) < len(traces[0].shape.npus_of_part):
            parts |= {done.part: done.finish_ns - start_ns for done in self._engine.advance(None)}
        return parts


class PrefillCosts:
    """Prefill times of one instance without decodes and without contention; implements ``CostModel``.

    ``routing`` deals tokens to experts for the predictions alone; one that draws makes one draw for each number of
    tokens, so that predictions do not change from call to call. ``wave`` makes the trace of a batch, and prices what
    is not in its layers, where other instances run along.
    """

    def __init__(
        self,
        instance: InstanceSpec,
        latency: LatencyModel,
        overhead: HostOverhead,
        serial_ns: Callable[[Trace], int],
        routing: ExpertRouting | None = None,
        wave: Callable[[Batch], tuple[Trace, int]] | None = None,
    ) -> None:
        self.latency = latency
        self.overhead = overhead
        self._traces = TraceGenerator(instance, latency, routing)
        self._serial_ns = serial_ns
        self._wave = wave
        self._blocks = instance.model.num_hidden_layers
        self._dense_ns: dict[tuple[int, int, LayerGroup], int] = {}

    def batch_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        """Time of one iteration of prefill chunks, each ``(tokens, tokens cached before them)``."""
        return self._ns(chunks, WHOLE_MODEL)

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        """Time of one layer group of an iteration that runs one chunk.

        Of more groups than the model has blocks, those without a block take no time.
        """
        parts = layer_groups(self._blocks, groups)
        return self._ns([(tokens, context)], parts[group]) if group < len(parts) else 0

    def _ns(self, chunks: Sequence[tuple[int, int]], layer_group: LayerGroup) -> int:
        batch = _batch(chunks, layer_group)
        kind = (batch.total_tokens, batch.sequences, layer_group)
        if kind not in self._dense_ns:
            self._dense_ns[kind] = self._price_dense(*kind)
        attention_ns = self.latency.attention_ns(*batch.prefill_chunks(), batch.decode_kv())
        return self._dense_ns[kind] + len(layer_group.blocks(self._blocks)) * max(attention_ns, 1)

    def _price_dense(self, tokens: int, sequences: int, layer_group: LayerGroup) -> int:
        """Everything but attention: layers, host overhead, and what the engine adds."""
        batch = even_batch(tokens, sequences, layer_group)
        if self._wave is None:
            trace = self._traces.synthesize_trace(batch, {}, {})
            serial_ns = self._serial_ns(trace)
        else:
            trace, serial_ns = self._wave(batch)
        attention_ns = len(layer_group.blocks(self._blocks)) * max(int(trace.durations_ns[ATTENTION_SLOT]), 1)
        return layers_ns(trace) - attention_ns + self.overhead.before(layer_group) + serial_ns


def even_batch(tokens: int, sequences: int, layer_group: LayerGroup = WHOLE_MODEL) -> Batch:
    """Prompts of the same length, up to one token, of which nothing is cached."""
    even = [(tokens // sequences + (index < tokens % sequences), 0) for index in range(sequences)]
    return _batch(even, layer_group)


def layers_ns(trace: Trace) -> int:
    """Time of a trace's layers on the first rank; the engine lets none take less than 1 ns."""
    rows = trace.shape.rows_of_slot
    return int(rows.dot(np.maximum(trace.durations_ns[: len(rows)], 1)))


def _batch(chunks: Sequence[tuple[int, int]], layer_group: LayerGroup) -> Batch:
    data = np.array(chunks, dtype=np.int64)
    total = int(data[:, 0].sum())
    return Batch(data[:, 0], data[:, 1], total, total, len(chunks), layer_group)

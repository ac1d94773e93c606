"""Predicted prefill times of one instance: what its latency model and the engine say of a batch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from inference_serving.cluster import Cluster, InstanceSpec
from inference_serving.controller import EngineController
from inference_serving.layer_times import LayerTimes
from inference_serving.request import Batch
from inference_serving.trace_generator import Trace, TraceGenerator
from inference_serving.trace_shape import DURATION_SLOT
from llm_profile.latency import LatencyModel
from llm_profile.layers import BLOCK_LAYERS, LAYERS

_LM_HEAD = DURATION_SLOT["lm_head"]


class SerialTimes:
    """Time that an iteration spends on anything but layers: collectives, loads and stores.

    Asked of an engine of its own, which nothing else uses, so it is the time without contention.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._engine: EngineController | None = None

    def ns(self, trace: Trace) -> int:
        """Engine time of the trace alone, less its layers' times."""
        if self._engine is None:
            self._engine = EngineController(self._cluster)
        start_ns = self._engine.now_ns
        self._engine.submit(trace, start_ns)
        (done,) = self._engine.advance(None)
        layers_ns = sum(max(int(trace.durations_ns[DURATION_SLOT[row.layer]]), 1) for row in trace.shape.rows)
        return done.finish_ns - start_ns - layers_ns


class PrefillCosts:
    """Prefill times of one instance without decodes and without contention; implements ``CostModel``."""

    def __init__(
        self,
        instance: InstanceSpec,
        latency: LatencyModel,
        step_overhead_ns: int,
        serial_ns: Callable[[Trace], int],
    ) -> None:
        self._latency = latency
        self._overhead_ns = step_overhead_ns
        self._traces = TraceGenerator(instance, latency)
        self._serial_ns = serial_ns
        self._layer_times = LayerTimes(latency)
        self._blocks = instance.model.num_hidden_layers
        self._runs = np.array([self._blocks if layer in BLOCK_LAYERS else 1 for layer in LAYERS], np.int64)
        self._runs[[DURATION_SLOT["attn"], _LM_HEAD]] = 0
        self._dense_ns: dict[tuple[int, int], int] = {}

    def batch_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        """Time of one iteration of prefill chunks, each ``(tokens, tokens cached before them)``."""
        tokens = sum(chunk[0] for chunk in chunks)
        dense = (tokens, len(chunks))
        if dense not in self._dense_ns:
            self._dense_ns[dense] = self._price_dense(*dense)
        return self._dense_ns[dense] + self._blocks * max(self._attention_ns(chunks), 1)

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        """Time of one layer group of an iteration that runs one chunk."""
        raise NotImplementedError

    def _attention_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        batch = _batch(chunks)
        return self._latency.attention_ns(*batch.prefill_chunks(), batch.decode_kv())

    def _price_dense(self, tokens: int, sequences: int) -> int:
        """Everything but attention: layers, step overhead, and what the engine adds."""
        even = [(tokens // sequences + (index < tokens % sequences), 0) for index in range(sequences)]
        trace = self._traces.synthesize_trace(_batch(even), {}, {})
        times_ns = np.maximum(self._layer_times.of(tokens), 1)
        head_ns = max(int(self._layer_times.of(sequences)[_LM_HEAD]), 1)
        return int(times_ns @ self._runs) + head_ns + self._overhead_ns + self._serial_ns(trace)


def _batch(chunks: Sequence[tuple[int, int]]) -> Batch:
    data = np.array(chunks, dtype=np.int64)
    total = int(data[:, 0].sum())
    return Batch(data[:, 0], data[:, 1], total, total, len(chunks))

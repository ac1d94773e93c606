"""Latencies of a device that runs slower or faster by one factor than the one that was measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_profile.protocol import LatencyModel, Source

Counts = NDArray[np.int64]


class ScaledLatencyModel:
    """Every time of another model times ``scale``; implements :class:`~llm_profile.protocol.LatencyModel`."""

    def __init__(self, model: LatencyModel, scale: float) -> None:
        self._model = model
        self._scale = scale
        self.name = f"{model.name}*{scale:g}"
        self.step_overhead_ns = round(model.step_overhead_ns * scale)

    def layer_ns(self, layer: str, tokens: Counts) -> Counts:
        """Time of one dense layer for each of ``tokens``."""
        scaled: Counts = np.rint(self._model.layer_ns(layer, tokens) * self._scale).astype(np.int64)
        return scaled

    def attention_ns(self, prefill_q: Counts, prefill_context: Counts, decode_kv: Counts) -> int:
        """Time of one layer's attention for one batch."""
        return round(self._model.attention_ns(prefill_q, prefill_context, decode_kv) * self._scale)

    def moe_ns(self, tokens_per_expert: Counts) -> int:
        """Time of one layer's experts on one rank."""
        return round(self._model.moe_ns(tokens_per_expert) * self._scale)

    def moe_source(self, tokens_per_expert: Counts) -> Source:
        """As unscaled."""
        return self._model.moe_source(tokens_per_expert)

    def source(self, layer: str, tokens: int) -> Source:
        """As unscaled."""
        return self._model.source(layer, tokens)

    def attention_source(self, prefill_q: Counts, prefill_context: Counts, decode_kv: Counts) -> Source:
        """As unscaled."""
        return self._model.attention_source(prefill_q, prefill_context, decode_kv)

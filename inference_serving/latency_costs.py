"""Prefill times for policies outside a simulation: from a latency model alone, without the compiled engine.

:class:`~inference_serving.prefill_costs.PrefillCosts` prices the same batches with everything that an
instance of a cluster adds (collectives, host memory); a real serving engine on one NPU has none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from astra_sim.input_error import validated
from inference_serving.layer_group import layer_groups
from llm_profile.hardware import Hardware
from llm_profile.iteration_time import dense_ns
from llm_profile.latency import LatencyModel, LatencyQuery, open_latency_model
from llm_profile.model_config import ModelConfig
from llm_profile.roofline import RooflineLatencyModel


class LatencyCosts:
    """Prefill times of one NPU without decodes; implements ``CostModel``."""

    def __init__(self, latency: LatencyModel, model: ModelConfig) -> None:
        self._latency = latency
        self._model = model
        self._no_decodes = np.zeros(0, dtype=np.int64)
        self._dense_ns: dict[tuple[int, int], int] = {}

    @staticmethod
    def of(card: str | Mapping[str, object], facts: Mapping[str, object], where: str | Path) -> LatencyCosts:
        """Costs of a model (the facts of its ``config.json``) on a card, by name or by its whole description.

        Raises InputError, naming ``where`` both came from, for facts that describe no model and for a card
        without a description.
        """
        model = validated(ModelConfig, {"name": "model", **facts}, Path(where))
        name = card if isinstance(card, str) else str(card.get("name", ""))
        query = LatencyQuery(hardware=name, model=model, tp_size=1, packed_decode=True)
        if isinstance(card, str):
            return LatencyCosts(open_latency_model(query, "calibrated"), model)
        return LatencyCosts(RooflineLatencyModel(validated(Hardware, dict(card), Path(where)), query), model)

    def batch_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        """Time of one iteration of prefill chunks, each ``(tokens, tokens cached before them)``."""
        data = np.array(chunks, dtype=np.int64)
        size = int(data[:, 0].sum()), len(chunks)
        if size not in self._dense_ns:
            self._dense_ns[size] = dense_ns(self._latency, self._model, *size)
        attention_ns = self._latency.attention_ns(data[:, 0], data[:, 1], self._no_decodes)
        return self._dense_ns[size] + self._model.num_hidden_layers * attention_ns

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        """Time of one layer group of an iteration with one chunk: its blocks' share of the whole iteration."""
        blocks = self._model.num_hidden_layers
        parts = layer_groups(blocks, groups)
        if group >= len(parts):
            return 0
        return self.batch_ns([(tokens, context)]) * len(parts[group].blocks(blocks)) // blocks

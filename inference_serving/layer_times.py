"""Times of an instance's dense layers by token count, and a tally of where the simulated time came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from inference_serving.layer_group import LayerGroup
from inference_serving.request import AttentionWork, Batch, Int64Array
from inference_serving.trace_shape import DENSE_SLOTS, DURATION_SLOT, FIRST_EXPERT_SLOT
from llm_profile.latency import LatencyModel, Source
from llm_profile.layers import GATE, LAYERS, SHARED_EXPERTS, block_layers, model_layers
from llm_profile.model_config import ModelConfig

_LEAST_COUNTS = 513
_ATTENTION = "attn"
_EMBEDDING = "embedding"
_LM_HEAD = "lm_head"
_OUTSIDE = frozenset((_EMBEDDING, "final_layernorm", _LM_HEAD))


class LayerTimes:
    """Time of every layer at every token count, asked for once each, in growing blocks of counts."""

    def __init__(self, latency: LatencyModel, layers: Sequence[str] = LAYERS) -> None:
        self._latency = latency
        self._layers = layers
        slots = FIRST_EXPERT_SLOT if GATE in layers else DENSE_SLOTS
        self._table = np.zeros((1, slots), dtype=np.int64)

    def of(self, tokens: int) -> Int64Array:
        """Times in ns by duration slot, shape ``[layers]``; attention, which no token count decides, is 0."""
        if tokens >= len(self._table):
            self._grow(tokens)
        row: Int64Array = self._table[tokens]
        return row

    def _grow(self, tokens: int) -> None:
        counts = np.arange(len(self._table), max(2 * len(self._table), tokens + 1, _LEAST_COUNTS))
        block = np.zeros((len(counts), self._table.shape[1]), dtype=np.int64)
        for layer in self._layers:
            if layer != _ATTENTION:
                block[:, DURATION_SLOT[layer]] = self._latency.layer_ns(layer, counts)
        self._table = np.concatenate([self._table, block])


class ProvenanceTally:
    """Adds up the compute time of an instance's iterations by how its latencies came about.

    A layer group counts with the layers that it runs. Only counts while the simulation runs; which number is
    measured and which is not is asked at the end. Shared experts run the tokens of one of ``owners`` ranks.
    """

    def __init__(self, latency: LatencyModel, model: ModelConfig, owners: int = 1) -> None:
        self._latency = latency
        self._layers = model_layers(model)
        self._owners = owners
        self._model = model
        self._iterations_of: Counter[tuple[int, int, LayerGroup]] = Counter()
        self._attention_ns: Counter[tuple[Source, LayerGroup]] = Counter()

    def count(self, batch: Batch, attention: AttentionWork | None, ns: int) -> None:
        """Note one iteration, whose ``attention`` (chunks, context, decodes) takes ``ns`` in each block.

        None: the NPUs have none of it.
        """
        self._iterations_of[batch.total_tokens, batch.logit_rows, batch.layer_group] += 1
        if attention is not None:
            self._attention_ns[self._latency.attention_source(*attention), batch.layer_group] += ns

    def time_ns(self, times: LayerTimes) -> Mapping[Source, int]:
        """Compute time so far by provenance, collectives and step overheads left out."""
        total_ns: Counter[Source] = Counter()
        for (source, layer_group), block_ns in self._attention_ns.items():
            total_ns[source] += block_ns * len(layer_group.blocks(self._model.num_hidden_layers))
        runs_of = {group: self._runs(group) for group in {key[2] for key in self._iterations_of}}
        for (tokens, logit_rows, layer_group), iterations in self._iterations_of.items():
            for layer, layer_runs in runs_of[layer_group].items():
                rows = logit_rows if layer == _LM_HEAD else tokens
                if layer == SHARED_EXPERTS:
                    rows = -(-tokens // self._owners)
                runs = iterations * layer_runs
                spent_ns = int(times.of(rows)[DURATION_SLOT[layer]])
                total_ns[self._latency.source(layer, rows)] += runs * spent_ns
        return total_ns

    def _runs(self, layer_group: LayerGroup) -> dict[str, int]:
        """How often a layer group runs each layer but attention."""
        runs = dict.fromkeys(self._layers, 0)
        for block in layer_group.blocks(self._model.num_hidden_layers):
            for layer in block_layers(self._model, block):
                runs[layer] += 1
        for layer in _OUTSIDE:
            runs[layer] = int(layer_group.is_first if layer == _EMBEDDING else layer_group.is_last)
        del runs[_ATTENTION]
        return runs

"""Time of one iteration of a whole model from the latencies of its layers, on one tensor-parallel rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_profile.layers import BLOCK_LAYERS
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyModel

Int64Array = NDArray[np.int64]


def iteration_ns(
    latency: LatencyModel,
    model: ModelConfig,
    prefill_q: Int64Array,
    prefill_context: Int64Array,
    decode_kv: Int64Array,
) -> int:
    """Step overhead and layers in ns, without collectives; one array element a request.

    A prefilling request computes ``prefill_q`` tokens on ``prefill_context`` cached ones, a decoding request
    reads ``decode_kv`` tokens of KV. Every request's last token goes through the head.
    """
    attention_ns = model.num_hidden_layers * latency.attention_ns(prefill_q, prefill_context, decode_kv)
    requests = len(prefill_q) + len(decode_kv)
    return attention_ns + dense_ns(latency, model, int(prefill_q.sum()) + len(decode_kv), requests)


def dense_ns(latency: LatencyModel, model: ModelConfig, tokens: int, requests: int) -> int:
    """The part of :func:`iteration_ns` that depends on how many tokens and requests run, and on nothing else."""
    every, last = np.array([tokens]), np.array([requests])
    block_ns = sum(int(latency.layer_ns(layer, every)[0]) for layer in BLOCK_LAYERS if layer != "attn")
    edges_ns = sum(int(latency.layer_ns(layer, every)[0]) for layer in ("embedding", "final_layernorm"))
    edges_ns += int(latency.layer_ns("lm_head", last)[0])
    return latency.step_overhead_ns + model.num_hidden_layers * block_ns + edges_ns

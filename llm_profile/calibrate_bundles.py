"""Read what a fit needs from bundles, the newer layout: ``{model}/{variant}/tp{N}/{dense,attention}.csv``.

Times are microseconds. q, k, v and gate, up are one kernel each; the lm_head is in ``per_sequence.csv``.
"""

from __future__ import annotations

from pathlib import Path

from llm_profile.attention_v1 import Points
from llm_profile.bundle_attention import read_attention_rows
from llm_profile.bundle_layers import read_bundle_layers
from llm_profile.protocol import LatencyQuery

_LAYERS = {
    "embedding": ("embedding",),
    "layernorm": ("input_layernorm", "post_layernorm"),
    "qkv_proj": ("q_proj",),
    "qk_norm": ("q_proj",),
    "rotary_emb": ("rope",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj",),
    "act_fn": ("act_fn",),
    "down_proj": ("down_proj",),
    "final_layernorm": ("final_layernorm",),
    "lm_head": ("lm_head",),
}
"""Our layers by the bundle's; q_proj and gate_proj stand for the fused kernels, q_proj with its norms too."""


OWN_KEY = 1
"""Key of the new token, which the rows of decodes do not count: with 128 keys a second block of 128 is read."""
Batch = tuple[int, int, int, int, float]
"""(chunk, context, decodes, KV of each, ns) of a batch of one prefill and decodes."""


def read_bundle(
    folder: Path, query: LatencyQuery
) -> tuple[dict[str, dict[int, float]], Points, Points, list[Batch]]:
    """(layers, prefill, decode, mixed) in ns: by layer and tokens; chunk and context; requests and total KV."""
    layers: dict[str, dict[int, float]] = {}
    dense, sampling = read_bundle_layers(folder, query)
    for measured, rows in (*dense.items(), *sampling.items()):
        for layer in _LAYERS.get(measured, ()):
            points = layers.setdefault(layer, {})
            for tokens, ns in rows.by_count().items():
                points[tokens] = points.get(tokens, 0.0) + ns
    prefill: Points = {}
    decode: Points = {}
    mixed: list[Batch] = []
    attention = read_attention_rows(folder / "attention.csv", query)
    for (chunk, context, requests, kv), ns in zip(
        attention.keys.tolist(), attention.ns.tolist(), strict=True
    ):
        if requests == 0:
            prefill.setdefault(chunk, {})[context] = ns
        elif chunk == 0:
            decode.setdefault(requests, {})[requests * (kv + OWN_KEY)] = ns
        else:
            mixed.append((chunk, context, requests, kv, ns))
    return layers, prefill, decode, mixed

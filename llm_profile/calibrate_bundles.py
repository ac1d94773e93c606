"""Read what a fit needs from bundles, the newer layout: ``{model}/{variant}/tp{N}/{dense,attention}.csv``.

Times are microseconds. q, k, v and gate, up are one kernel each; the lm_head is in ``per_sequence.csv``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from astra_sim.input_error import InputError
from llm_profile.attention_v1 import Points

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


Batch = tuple[int, int, int, int, float]
"""(chunk, context, decodes, KV of each, ns) of a batch of one prefill and decodes."""


def read_bundle(folder: Path) -> tuple[dict[str, dict[int, float]], Points, Points, list[Batch]]:
    """(layers, prefill, decode, mixed) in ns: by layer and tokens; chunk and context; requests and total KV."""
    layers: dict[str, dict[int, float]] = {}
    for file, key in ((folder / "dense.csv", "tokens"), (folder / "per_sequence.csv", "sequences")):
        for name, tokens, us in _rows(file, ("layer", key, "time_us")):
            for layer in _LAYERS.get(name, ()):
                points = layers.setdefault(layer, {})
                points[int(tokens)] = points.get(int(tokens), 0.0) + 1e3 * float(us)
    prefill: Points = {}
    decode: Points = {}
    mixed: list[Batch] = []
    columns = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    for row in _rows(folder / "attention.csv", columns):
        chunk, context, requests, kv = (int(text) for text in row[:4])
        if requests == 0:
            prefill.setdefault(chunk, {})[context] = 1e3 * float(row[4])
        elif chunk == 0:
            decode.setdefault(requests, {})[requests * kv] = 1e3 * float(row[4])
        else:
            mixed.append((chunk, context, requests, kv, 1e3 * float(row[4])))
    return layers, prefill, decode, mixed


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    try:
        stream = file.open(newline="", encoding="utf-8")
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None
    with stream:
        reader = csv.DictReader(stream)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(file, "line 1", f"no column {missing[0]}")
        for row in reader:
            yield [row[name] for name in columns]

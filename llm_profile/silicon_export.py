"""Write what the source ``silicon`` knows as tables in the published layout.

``python -m llm_profile.silicon_export --hardware H200 --model meta-llama/Llama-3.1-8B --tp 1 2 --out DIR`` writes
``DIR/H200/{model}/tp{N}/``. With ``--fused`` a fused kernel is one layer, as ``python -m llm_profile.calibrate
--profiles DIR --hardware H200``, which fits a description, wants it; the simulator does not read such tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from llm_profile.layers import GATE_UP_LAYERS, LAYERS, MLP_LAYERS, QKV_LAYERS
from llm_profile.layers_csv import LAYER_COLUMNS
from llm_profile.model_config import load_model_config
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.silicon import SiliconLatencyModel, open_silicon

MAX_TOKENS = 4096
CHUNKS = (16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 4096, 8192)
CONTEXTS = (0, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LENGTHS = (2, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
ATTENTION_COLUMNS = (
    "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_q_head,n_kv_head,"
    "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill"
)


def export(query: LatencyQuery, folder: Path, fused: bool = False) -> Path:
    """Write ``layers.csv`` and ``attention.csv`` of ``query`` below ``folder``; return where they are.

    ``fused``: q_proj has the time of q, k and v, and gate_proj that of gate and up.
    """
    model = open_silicon(query)
    place = folder / query.hardware / query.model.name / f"tp{query.tp_size}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "layers.csv").write_text("\n".join(_layer_lines(query, model, fused)) + "\n", encoding="utf-8")
    (place / "attention.csv").write_text("\n".join(_attention_lines(query, model)) + "\n", encoding="utf-8")
    return place


def _layer_lines(query: LatencyQuery, model: SiliconLatencyModel, fused: bool) -> Iterator[str]:
    yield ",".join(LAYER_COLUMNS)
    tokens = np.arange(1, MAX_TOKENS + 1)
    skipped = {"attn", *(MLP_LAYERS if query.model.is_moe else ())}
    kernels = {layers[0]: layers for layers in (QKV_LAYERS, GATE_UP_LAYERS)} if fused else {}
    skipped |= {layer for layers in kernels.values() for layer in layers[1:]}
    for layer in LAYERS:
        if layer not in skipped:
            times = np.sum([model.layer_ns(part, tokens) for part in kernels.get(layer, (layer,))], axis=0)
            for n, ns in enumerate(times.tolist(), start=1):
                yield f"{layer},{n},0,{query.tp_size},{ns}"


def _attention_lines(query: LatencyQuery, model: SiliconLatencyModel) -> Iterator[str]:
    shape = f"{query.model.num_attention_heads},{query.model.num_key_value_heads},{query.tp_size}"
    none = np.array([], dtype=np.int64)
    yield ATTENTION_COLUMNS
    for n in CHUNKS:
        for context in CONTEXTS:
            ns = model.attention_ns(np.array([n]), np.array([context]), none)
            yield f"{ns / 1e6:.6f},,{shape},1,{n},{context},True"
    for n in BATCHES:
        for kv in LENGTHS:
            batch = (none, none, np.full(n, kv))
            if model.attention_source(*batch) != Source.EXTRAPOLATED:
                ns = model.attention_ns(*batch)
                yield f",{ns / 1e6:.6f},{shape},{n},0,{n * kv},False"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints the folders written."""
    parser = argparse.ArgumentParser(prog="python -m llm_profile.silicon_export", description=__doc__)
    parser.add_argument("--hardware", required=True, help="name of the card")
    parser.add_argument("--model", required=True, help="name of the model, or its config.json")
    parser.add_argument("--tp", type=int, nargs="+", default=[1], help="tensor-parallel sizes")
    parser.add_argument(
        "--fused", action="store_true", help="one layer for each fused kernel, to fit a description to"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        model = load_model_config(options.model)
        for tp_size in options.tp:
            print(export(LatencyQuery(options.hardware, model, tp_size), options.out, options.fused))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

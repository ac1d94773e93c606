"""Synthetic tables in the published layout, from closed forms."""

from pathlib import Path

import numpy as np

from llm_profile.layers import LAYERS

GPU_HEADER = (
    "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_q_head,n_kv_head,"
    "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill"
)


def tokens(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def layer_ns(index: int, n: int) -> int:
    """Layer number ``index`` of LAYERS takes 1000 ns and 10 ns a token, times its number plus one."""
    return (index + 1) * (1000 + 10 * n)


def prefill_ns(n: int, context: int) -> int:
    return 2000 + 3 * n + 5 * context


def decode_ns(requests: int, total_kv: int) -> int:
    return 2000 + 100 * requests + 7 * total_kv


def write_layers(folder: Path, layers: tuple[str, ...] = LAYERS, last: int = 64, tp_size: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["layer_name,input,kv_cache,tp_size,latency(ns)"]
    for index, layer in enumerate(layers):
        if layer != "attn":
            rows += [f"{layer},{n},0,{tp_size},{layer_ns(index, n)}" for n in range(1, last + 1, 3)]
    file = folder / "layers.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def write_attention(folder: Path, heads: tuple[int, int] = (32, 8), tp_size: int = 1) -> Path:
    shape = f"{heads[0]},{heads[1]},{tp_size}"
    rows = [GPU_HEADER]
    for n in (32, 64, 128):
        rows += [f"{prefill_ns(n, c) / 1e6:.9f},,{shape},1,{n},{c},True" for c in (0, 256, 1024)]
    for n in (1, 2, 8):
        rows += [f",{decode_ns(n, kv) / 1e6:.9f},{shape},{n},0,{kv},False" for kv in (n, 300 * n, 4096 * n)]
    rows.append(f",0.000001,{shape},8,0,4,False")  # fewer tokens than requests: an empty kernel
    file = folder / "attention.csv"
    file.write_text("\n".join(rows) + "\n")
    return file

"""Measured points as the newer layout: the CSV files of a bundle, in microseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llm_profile.bundle_attention import COLUMNS as ATTENTION_COLUMNS
from llm_profile.bundle_skew import COLUMNS as BUCKET_COLUMNS
from llm_profile.profiler.plan import Kind
from llm_profile.profiler.skew_fit import Bucket, SkewSample, skew_samples
from llm_profile.profiler.tables import Measured
from llm_profile.table_csv import MICROSECONDS

DENSE_LAYERS = (
    "embedding",
    "layernorm",
    "qkv_proj",
    "qk_norm",
    "rotary_emb",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
    "final_layernorm",
)
SKEW_COLUMNS = (
    "regime",
    "n",
    "nb",
    "ratio",
    "skew",
    "pc",
    "kp",
    "kvs",
    "kv_big",
    "kv_mean",
    "t_mean_us",
    "t_max_us",
    "t_skew_us",
    "alpha",
)


def bundle_files(measured: Measured, buckets: Sequence[Bucket]) -> dict[str, str]:
    """File name and text of every CSV of a bundle that the points suffice for."""
    files = {
        "dense.csv": _text(("layer", "tokens"), _layer_rows(measured, Kind.FUSED_LAYERS)),
        "per_sequence.csv": _text(("layer", "sequences"), _layer_rows(measured, Kind.SEQUENCES)),
        "attention.csv": _text(ATTENTION_COLUMNS, _key_rows(measured, Kind.ATTENTION, "attn")),
        "moe.csv": _text(("tokens", "activated_experts"), _key_rows(measured, Kind.MOE, "moe")),
    }
    samples = skew_samples(measured)
    if samples:
        files["skew.csv"] = "\n".join([",".join(SKEW_COLUMNS), *map(_skew_row, samples)]) + "\n"
    if buckets:
        rows = (",".join([*bucket.labels, f"{bucket.alpha:.4f}", str(bucket.samples)]) for bucket in buckets)
        files["skew_fit.csv"] = "\n".join([",".join((*BUCKET_COLUMNS, "n_samples")), *rows]) + "\n"
    return {name: text for name, text in files.items() if text.count("\n") > 1}


def _text(columns: Sequence[str], rows: Iterator[str]) -> str:
    return "\n".join([",".join((*columns, "time_us")), *rows]) + "\n"


def _us(ns: float) -> str:
    return f"{ns / MICROSECONDS.ns:.6g}"


def _layer_rows(measured: Measured, kind: Kind) -> Iterator[str]:
    """Rows by layer, then count."""
    order = (*DENSE_LAYERS, "lm_head", "sampler")
    rows = sorted(
        (order.index(name), point.key[0], stats.median)
        for point, times in measured.items()
        if point.kind == kind
        for name, stats in times.items()
    )
    return (f"{order[layer]},{count},{_us(ns)}" for layer, count, ns in rows)


def _key_rows(measured: Measured, kind: Kind, name: str) -> Iterator[str]:
    rows = sorted((point.key, times[name].median) for point, times in measured.items() if point.kind == kind)
    return (",".join([*map(str, key), _us(ns)]) for key, ns in rows)


def _skew_row(sample: SkewSample) -> str:
    return ",".join(
        [
            "mixed" if sample.chunk else "pure",
            *map(str, (sample.requests, sample.long_requests)),
            f"{sample.long_requests / sample.requests:.4g}",
            f"{sample.long_kv / sample.short_kv:.4g}",
            *map(str, (sample.chunk, sample.context, sample.short_kv, sample.long_kv)),
            f"{sample.mean_kv:.6g}",
            *map(_us, (sample.mean_ns, sample.max_ns, sample.skew_ns)),
            "" if sample.alpha is None else f"{sample.alpha:.4f}",
        ]
    )

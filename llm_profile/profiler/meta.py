"""``meta.yaml`` of a bundle: what it was measured with, in the keys of the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from astra_sim.input_error import InputError
from llm_profile.layers import heads_per_rank
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.journal import Identity
from llm_profile.profiler.plan import Grid
from llm_profile.profiler.skew_fit import Bucket

PROFILER_VERSION = "llmservingsim-hol 1"


def meta_text(
    file: Path,
    *,
    identity: Identity,
    model: ModelConfig,
    tp_size: int,
    variant: str,
    grid: Grid,
    repeats: int,
    buckets: Sequence[Bucket],
) -> str:
    """Text of ``meta.yaml``; other tensor-parallel sizes that ``file`` already tells of are kept."""
    before = _existing(file)
    degrees = sorted({tp_size, *_measured_degrees(file, before)})
    fits = {tp: fit for tp, fit in _fits(before).items() if tp in degrees and tp != tp_size}
    if buckets:
        fits[tp_size] = {
            "method": "per_bucket_wls_5axis",
            "n_samples": sum(bucket.samples for bucket in buckets),
            "bucket_table": f"tp{tp_size}/skew_fit.csv",
        }
    heads, kv_heads = heads_per_rank(model, tp_size)
    meta = {
        "profiler_version": PROFILER_VERSION,
        "torch_version": identity["torch"],
        "device": identity["device"],
        "hardware": identity["hardware"],
        "model": model.name,
        "variant": variant,
        "tp_degrees": degrees,
        "engine_effective": {
            "kv_cache_dtype": identity["dtype"],
            "decode_kernel": identity["decode_kernel"],
            "threads": identity["threads"],
            "clock": identity["clock"],
            "hf_overrides": {
                "num_hidden_layers": identity["blocks"],
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
            },
        },
        "attention_grid": {
            "max_tokens": grid.max_tokens,
            "max_seqs": grid.max_seqs,
            "max_kv": grid.max_context,
            "density": grid.density,
        },
        "measurement_iterations": repeats,
        "skew_fit": {"enabled": bool(fits), "per_tp": dict(sorted(fits.items()))},
    }
    return yaml.safe_dump(meta, sort_keys=False)


def _existing(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(file, "", f"cannot be read, so nothing is added to it: {error}") from None
    return data if isinstance(data, dict) else {}


def _measured_degrees(file: Path, before: Mapping[str, Any]) -> list[int]:
    told = before.get("tp_degrees") or []
    return [tp for tp in told if isinstance(tp, int) and (file.parent / f"tp{tp}").is_dir()]


def _fits(before: Mapping[str, Any]) -> dict[int, Any]:
    skew = before.get("skew_fit")
    fits = skew.get("per_tp") if isinstance(skew, dict) else None
    return dict(fits) if isinstance(fits, dict) else {}

"""Fit a hardware description to measured tables, or check one against them.

``python -m llm_profile.calibrate --profiles DIR --hardware A6000`` prints the ``coefficients`` and ``fit``
sections of ``hardware/A6000.yaml``, whose datasheet part must exist; with ``--check`` it prints how far the
description is from the tables. Of mixture-of-experts models only the attention is fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.hardware import (
    Coefficients,
    Decode,
    Elementwise,
    Gemm,
    Hardware,
    Prefill,
    find_hardware,
    known_hardware,
    load_hardware,
)
from llm_profile.layers import BLOCK_LAYERS, GEMM_LAYERS, LayerShape, layer_shape
from llm_profile.least_squares import fit_positive
from llm_profile.profiles import Profile, read_profiles
from llm_profile.roofline import (
    ELEMENTWISE_CLASS,
    AttentionRoofline,
    RooflineLatencyModel,
    elementwise_ns,
    gemm_ns,
)

Floats = NDArray[np.float64]
Errors = dict[str, tuple[float, float]]
FIT_TOKENS = 100
"""Token counts of a curve that a fit looks at, half of them evenly spaced, half geometrically."""
DECODE_SAMPLES = 4000
MAX_PREFILL_EFFICIENCY = 0.8
PREFILL_STARTS = tuple(
    {"fixed_ns": 4e3, "efficiency": e, "stream_gbps": 20.0, "prompt_keys": 1.3, "sharpness": 2.5}
    for e in (0.2, 0.5)
)
DECODE_START = {"fixed_ns": 3e3, "head_ns": 5.0, "efficiency": 0.8, "stream_gbps": 15.0, "sharpness": 3.0}
BLOCK_TOKENS = (1, 16, 32, 64, 128)
LIMITS = {"sharpness": (1.0, 16.0), "cached_efficiency": (0.0, 4.0), "working_set": (0.5, 64.0)}


def fit(card: Hardware, profiles: Sequence[Profile]) -> Coefficients:
    """Fit every layer class and attention; what was not measured keeps its generic values."""
    dense = [profile for profile in profiles if not profile.model.is_moe]
    classes = {name: fit_elementwise(card, dense, name) for name in sorted(set(ELEMENTWISE_CLASS.values()))}
    prefilled = [profile for profile in profiles if profile.prefill]
    decoded = [profile for profile in profiles if profile.decode]
    return Coefficients(
        gemm=fit_gemm(card, dense),
        **classes,
        prefill=fit_prefill(card, profiles) if prefilled else Prefill(),
        decode=fit_decode(card, decoded) if decoded else Decode(),
    )


def fit_gemm(card: Hardware, profiles: Sequence[Profile]) -> Gemm:
    """One set of coefficients for all matrix layers of all models and tensor-parallel sizes."""
    curves = _curves(profiles, sorted(GEMM_LAYERS))

    def predict(values: dict[str, Any]) -> Floats:
        c = Gemm.model_construct(**_within_limits(values))
        bandwidth = card.memory.bandwidth_gbps
        return np.concatenate(
            [
                gemm_ns(c, card, shape, tokens, bandwidth_gbps=bandwidth, weight_bits=16)
                for shape, tokens, _ in curves
            ]
        )

    return Gemm(**_best(predict, np.concatenate([ns for _, _, ns in curves]), [Gemm().model_dump()]))


def fit_elementwise(card: Hardware, profiles: Sequence[Profile], class_name: str) -> Elementwise:
    """Coefficients of the layers of one elementwise class."""
    curves = _curves(profiles, [layer for layer, name in ELEMENTWISE_CLASS.items() if name == class_name])

    def predict(values: dict[str, Any]) -> Floats:
        c = Elementwise.model_construct(**_within_limits(values))
        bandwidth = card.memory.bandwidth_gbps
        return np.concatenate(
            [
                elementwise_ns(c, card, shape, tokens, bandwidth_gbps=bandwidth, bits=16)
                for shape, tokens, _ in curves
            ]
        )

    starts = [
        {"fixed_ns": 5000.0, "efficiency": 0.3, "cached_efficiency": 0.5, "working_set": w}
        for w in (1.0, 3.0, 8.0)
    ]
    return Elementwise(**_best(predict, np.concatenate([ns for _, _, ns in curves]), starts))


def fit_prefill(card: Hardware, profiles: Sequence[Profile]) -> Prefill:
    """Coefficients of prefill attention, from chunks with context and whole prompts."""
    samples = [(p, s) for p in profiles for s in (p.prefill_samples(), p.prompt_samples()) if s[0].size]

    def predict(values: dict[str, Any]) -> Floats:
        c = Prefill.model_construct(**_within_peak(values))
        return np.concatenate([_prefill_ns(card, p, c, n, context) for p, (n, context, _) in samples])

    values = _best(predict, np.concatenate([s[2] for _, s in samples]), PREFILL_STARTS)
    return Prefill(**_within_peak(values))


def fit_decode(card: Hardware, profiles: Sequence[Profile]) -> Decode:
    """Coefficients of decode attention; tries K/V read once or for each query head, and block sizes."""
    samples = [(p, _thinned(p.decode_samples())) for p in profiles]
    measured = np.concatenate([s[2] for _, s in samples])
    best: tuple[float, Decode] | None = None
    for block_tokens in BLOCK_TOKENS:
        for gqa_packed in (True, False):
            choice: dict[str, Any] = {"block_tokens": block_tokens, "gqa_packed": gqa_packed}

            def predict(values: dict[str, Any], choice: dict[str, Any] = choice) -> Floats:
                c = Decode.model_construct(**_within_limits(values), **choice)
                return np.concatenate([_decode_ns(card, p, c, n, total) for p, (n, total, _) in samples])

            values, loss = fit_positive(predict, measured, DECODE_START)
            if best is None or loss < best[0]:
                best = loss, Decode(**_rounded(_within_limits(values)), **choice)
    assert best is not None
    return best[1]


def error_table(card: Hardware, profiles: Sequence[Profile]) -> Errors:
    """Median and 90th percentile of |predicted / measured - 1| for each profile and kind of measurement.

    ``block`` is the sum of the block's layers without attention, at every token count of the table.
    """
    errors: Errors = {}
    for profile in profiles:
        model = RooflineLatencyModel(card, profile.query(card.name))
        for kind, predicted, measured in _comparisons(card, model, profile):
            relative = np.abs(predicted / measured - 1)
            errors[f"{profile.key} {kind}"] = (float(np.median(relative)), float(np.quantile(relative, 0.9)))
    return errors


def _comparisons(
    card: Hardware, model: RooflineLatencyModel, profile: Profile
) -> list[tuple[str, Floats, Floats]]:
    """(kind, predicted, measured) of everything a profile has."""
    rows: list[tuple[str, Floats, Floats]] = []
    block = [layer for layer in BLOCK_LAYERS if layer != "attn"]
    groups = {"block": block, "embedding": ["embedding"], "lm_head": ["lm_head"]}
    for kind, names in ({} if profile.model.is_moe else groups).items():
        tokens = np.array(sorted(set.intersection(*(set(profile.layers[name]) for name in names))))
        measured = sum(np.array([profile.layers[name][t] for t in tokens.tolist()]) for name in names)
        predicted = sum(model.layer_ns(name, tokens) for name in names)
        rows.append((kind, np.asarray(predicted, dtype=np.float64), np.asarray(measured)))
    coefficients = card.coefficients or Coefficients()
    for kind, (n, context, ns) in (
        ("prefill", profile.prefill_samples()),
        ("prompt", profile.prompt_samples()),
    ):
        if n.size:
            rows.append((kind, _prefill_ns(card, profile, coefficients.prefill, n, context), ns))
    n, total, ns = profile.decode_samples()
    if n.size:
        rows.append(("decode", _decode_ns(card, profile, coefficients.decode, n, total), ns))
    return rows


def _curves(profiles: Sequence[Profile], layers: Sequence[str]) -> list[tuple[LayerShape, Floats, Floats]]:
    """(shape, tokens, ns) of each layer of each profile, thinned to the token counts of a fit."""
    curves = []
    for profile in profiles:
        for layer in layers:
            points = profile.layers[layer]
            last = max(points)
            half = FIT_TOKENS // 2
            wanted = np.unique(np.r_[np.geomspace(1, last, half), np.linspace(1, last, half)].astype(int))
            tokens = [t for t in wanted.tolist() if points.get(t, 0) > 0]
            shape = layer_shape(profile.model, layer, profile.tp_size)
            curves.append((shape, np.array(tokens, dtype=np.float64), np.array([points[t] for t in tokens])))
    return curves


def _attention(card: Hardware, profile: Profile, prefill: Prefill, decode: Decode) -> AttentionRoofline:
    return AttentionRoofline(card, prefill, decode, profile.query(card.name), card.memory.bandwidth_gbps)


def _prefill_ns(card: Hardware, profile: Profile, c: Prefill, n: Floats, context: Floats) -> Floats:
    attention = _attention(card, profile, c, Decode())
    return c.fixed_ns + attention.prefill_ns(n, context, np.maximum(c.prompt_keys * n, context))


def _decode_ns(card: Hardware, profile: Profile, c: Decode, n: Floats, total: Floats) -> Floats:
    """Predicted time of measured batches, in which all requests have the same KV length."""
    block_kv = n * np.ceil(total / n / c.block_tokens) * c.block_tokens
    return c.fixed_ns + _attention(card, profile, Prefill(), c).decode_ns(n, block_kv, total / n)


def _thinned(samples: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats, Floats]:
    keep = slice(None, None, max(1, samples[0].size // DECODE_SAMPLES))
    return samples[0][keep], samples[1][keep], samples[2][keep]


def _best(
    predict: Callable[[dict[str, float]], Floats], measured: Floats, starts: Sequence[dict[str, float]]
) -> dict[str, Any]:
    fits = [fit_positive(predict, measured, start) for start in starts]
    return _rounded(_within_limits(min(fits, key=lambda result: result[1])[0]))


def _within_limits(values: dict[str, Any]) -> dict[str, Any]:
    """Keep coefficients that the data does not determine from running away."""
    return {
        name: min(max(value, LIMITS[name][0]), LIMITS[name][1]) if name in LIMITS else value
        for name, value in values.items()
    }


def _within_peak(values: dict[str, Any]) -> dict[str, Any]:
    return {**_within_limits(values), "efficiency": min(values["efficiency"], MAX_PREFILL_EFFICIENCY)}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints YAML (fit) or a Markdown table (check)."""
    parser = argparse.ArgumentParser(prog="python -m llm_profile.calibrate", description=__doc__)
    parser.add_argument("--profiles", type=Path, required=True, help="folder with {hardware}/{model}/tp{N}")
    parser.add_argument("--hardware", required=True, help="name of the card")
    parser.add_argument("--check", action="store_true", help="print the errors of the existing description")
    options = parser.parse_args(arguments)
    try:
        file = find_hardware(options.hardware)
        if file is None:
            names = ", ".join(known_hardware())
            raise InputError("", "--hardware", f"{options.hardware!r} has no description; described: {names}")
        card = load_hardware(file)
        profiles = read_profiles(options.profiles, options.hardware)
        print(_check_text(card, profiles) if options.check else _fit_text(card, profiles))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _check_text(card: Hardware, profiles: Sequence[Profile]) -> str:
    lines = ["| table | median error | p90 error |", "|---|---|---|"]
    for name, (median, p90) in error_table(card, profiles).items():
        lines.append(f"| {card.name}/{name} | {median:.1%} | {p90:.1%} |")
    return "\n".join(lines)


def _fit_text(card: Hardware, profiles: Sequence[Profile]) -> str:
    fitted = card.model_copy(update={"coefficients": fit(card, profiles)})
    assert fitted.coefficients is not None
    errors = {
        name: {"median": round(median, 3), "p90": round(p90, 3)}
        for name, (median, p90) in error_table(fitted, profiles).items()
    }
    record = {
        "data": "tables of " + ", ".join(profile.key for profile in profiles),
        "max_tokens": max(max(points) for profile in profiles for points in profile.layers.values()),
        "errors": errors,
    }
    sections = {"coefficients": fitted.coefficients.model_dump(), "fit": record}
    return yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=110).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())

"""Fit a hardware description to measured tables, or check one against them.

``python -m llm_profile.calibrate --profiles DIR --hardware A6000`` prints the ``coefficients`` and ``fit``
sections of ``hardware/A6000.yaml``, whose datasheet part must exist; with ``--check`` it prints how far the
description is from the tables. Of mixture-of-experts models attention, router and experts are fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from astra_sim.input_error import InputError
from llm_profile.calibrate_check import (
    Errors,
    decode_ns,
    error_table,
    held_out_errors,
    prefill_ns,
    table_text,
)
from llm_profile.calibrate_mixed import fit_mixed
from llm_profile.calibrate_moe import fit_moe, fit_router
from llm_profile.calibrate_runs import FIT_RUN, fit_run, fitted_range, run_errors
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
from llm_profile.layers import GEMM_LAYERS, fused_shape, layer_shape
from llm_profile.least_squares import fit_positive
from llm_profile.profiles import Profile, read_profiles
from llm_profile.roofline import ELEMENTWISE_CLASS, kernel_layers
from llm_profile.roofline_formulas import elementwise_ns, gemm_ns
from llm_profile.table_csv import Floats

Samples = tuple[Floats, Floats, Floats]
FIT_TOKENS = 100
"""Token counts of a curve that a fit looks at, half of them evenly spaced, half geometrically."""
DECODE_SAMPLES = 4000
MAX_PREFILL_EFFICIENCY = 0.95
PREFILL_START = {"fixed_ns": 4e3, "efficiency": 0.5, "crowding": 1.0, "tail": 0.7}
FREE = 1000.0
"""Efficiency of a layer that is computed within another."""
BLOCK_WEIGHT = 4
"""How many curves the sum of a block's matrix layers, which a simulation adds up, counts for."""
TILE_ROWS = (32, 64, 128)
LONG_PROMPT = 512
"""Tokens from which whole prompts join a fit of a card that has measured chunks."""
DECODE_START = {
    "fixed_ns": 3e3,
    "head_ns": 5.0,
    "efficiency": 0.8,
    "cold": 0.1,
    "lone": 0.8,
    "stream_gbps": 15.0,
    "sharpness": 3.0,
}
DECODE_STARTS = (DECODE_START, {**DECODE_START, "cold": 3.0})
EQUAL = 1.02
"""Ratio of two losses that tells nothing about which fit is right."""
BLOCK_TOKENS = (1, 16, 32, 64, 128)
LIMITS = {
    "sharpness": (1.0, 16.0),
    "cached_efficiency": (0.0, 4.0),
    "working_set": (0.5, 64.0),
    "tail": (0.0, 1.5),
    "stream_gbps": (0.0, 1e4),
    "lone": (0.1, 1.0),
    "padding": (0.0, 1.0),
    "memory_efficiency": (0.0, 0.99),
    "compute_efficiency": (0.0, 0.99),
}


def fit(card: Hardware, profiles: Sequence[Profile]) -> Coefficients:
    """Fit every layer class and attention; what was not measured keeps its generic values."""
    dense = [profile for profile in profiles if not profile.model.is_moe]
    classes: dict[str, Any] = {
        name: fit_elementwise(card, dense, name) for name in sorted(set(ELEMENTWISE_CLASS.values()))
    }
    prefilled = _trusted_prefills(profiles)
    decoded = [profile for profile in profiles if profile.decode]
    gemm = fit_gemm(card, dense)
    fitted = Coefficients(
        gemm=gemm,
        **classes,
        prefill=fit_prefill(card, profiles) if prefilled else Prefill(),
        decode=fit_decode(card, decoded) if decoded else Decode(),
        router=fit_router(card, profiles, gemm),
        moe=fit_moe(card, profiles),
    )
    return fitted.model_copy(update={"mixed": fit_mixed(card, profiles, fitted)})


def fit_gemm(card: Hardware, profiles: Sequence[Profile]) -> Gemm:
    """One set of coefficients for all matrix layers of all models and tensor-parallel sizes."""
    fused = {
        "fused_qkv": all(profile.fused_qkv for profile in profiles),
        "fused_gate_up": all(profile.fused_gate_up for profile in profiles),
    }
    flags = Gemm(**fused)
    curves = []
    for p in profiles:
        block = GEMM_LAYERS - {"lm_head"}
        sums = [(tuple(block), p.block_ns(block))] * BLOCK_WEIGHT
        for layers, points in [*p.kernels(), *sums]:
            if GEMM_LAYERS.issuperset(layers) and points:
                kernels = [kernel_layers(flags, layer) for layer in layers]
                shapes = [fused_shape(p.model, kernel, p.tp_size) for kernel in kernels if kernel]
                curves.append((shapes, *_thinned_curve(points)))

    def predict(values: dict[str, Any]) -> Floats:
        c = Gemm.model_construct(**_within_limits(values))
        bandwidth = card.memory.bandwidth_gbps
        times = [
            sum(gemm_ns(c, card, shape, tokens, bandwidth_gbps=bandwidth, weight_bits=16) for shape in shapes)
            for shapes, tokens, _ in curves
        ]
        return np.concatenate(times)

    start = Gemm().model_dump(exclude=set(fused)) | {"padding": 0.5}
    return Gemm(**_best(predict, np.concatenate([ns for _, _, ns in curves]), [start]), **fused)


def fit_elementwise(card: Hardware, profiles: Sequence[Profile], class_name: str) -> Elementwise:
    """Coefficients of the layers of one elementwise class."""
    layers = [layer for layer, name in ELEMENTWISE_CLASS.items() if name == class_name]
    if class_name == "activation" and all(profile.fused_activation for profile in profiles):
        return Elementwise(fixed_ns=0, efficiency=FREE, cached_efficiency=FREE)
    curves = [
        (layer_shape(p.model, layer, p.tp_size), *_thinned_curve(p.layers[layer]))
        for p in profiles
        for layer in layers
    ]

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
    samples = _trusted_prefills(profiles)
    measured = np.concatenate([s[2] for _, s in samples])
    fits = []
    for tile_rows in TILE_ROWS:

        def predict(values: dict[str, Any], tile_rows: int = tile_rows) -> Floats:
            c = Prefill.model_construct(**_below_peak(values), tile_rows=tile_rows)
            return np.concatenate([prefill_ns(card, p, c, n, context) for p, (n, context, _) in samples])

        values, loss = fit_positive(predict, measured, PREFILL_START)
        fits.append((loss, Prefill(**_rounded(_below_peak(values)), tile_rows=tile_rows)))
    return min(fits, key=lambda fit: fit[0])[1]


def _trusted_prefills(profiles: Sequence[Profile]) -> list[tuple[Profile, Samples]]:
    """Measured chunks and long prompts; all prompts where nothing else was measured.

    Short prompts of a card are up to twice as slow as its chunks of the same size: the whole-prompt series
    has another launch cost.
    """
    chunks = [(p, p.prefill_samples()) for p in profiles if p.prefill]
    prompts = [(p, p.prompt_samples()) for p in profiles]
    least = LONG_PROMPT if chunks else 1
    prompts = [(p, (n[n >= least], c[n >= least], ns[n >= least])) for p, (n, c, ns) in prompts]
    return chunks + [(p, s) for p, s in prompts if s[0].size]


def fit_decode(card: Hardware, profiles: Sequence[Profile]) -> Decode:
    """Coefficients of decode attention; tries block sizes, and K/V read once or for each query head.

    Models of one head ratio cannot tell how often K/V is read; then the efficiency nearer to 1 decides.
    """
    fits = [min(_decode_fits(card, profiles, packed), key=lambda fit: fit[0]) for packed in (True, False)]
    least = min(loss for loss, _ in fits)
    equal = [decode for loss, decode in fits if loss <= EQUAL * least]
    fitted = min(equal, key=lambda decode: abs(np.log(decode.efficiency)))
    return fitted.model_copy(update={"skew": _median_skew(profiles)})


def _median_skew(profiles: Sequence[Profile]) -> float:
    """Median over all uneven decode batches that were measured; 0 if none was."""
    alphas = np.concatenate([profile.alphas for profile in profiles])
    return max(float(f"{np.median(alphas):.4g}"), 0.0) if alphas.size else 0.0


def _decode_fits(card: Hardware, profiles: Sequence[Profile], packed: bool) -> list[tuple[float, Decode]]:
    """(loss, coefficients) for every block size."""
    samples = [(p, _thinned(p.decode_samples())) for p in profiles]
    measured = np.concatenate([s[2] for _, s in samples])
    fits = []
    for block_tokens in BLOCK_TOKENS:
        choice: dict[str, Any] = {"block_tokens": block_tokens, "gqa_packed": packed}

        def predict(values: dict[str, Any], choice: dict[str, Any] = choice) -> Floats:
            c = Decode.model_construct(**_within_limits(values), **choice)
            return np.concatenate([decode_ns(card, p, c, n, total) for p, (n, total, _) in samples])

        for start in DECODE_STARTS:
            values, loss = fit_positive(predict, measured, start)
            fits.append((loss, Decode(**_rounded(_within_limits(values)), **choice)))
    return fits


def _thinned_curve(points: dict[int, float]) -> tuple[Floats, Floats]:
    """(tokens, ns) of a curve, thinned to the token counts of a fit."""
    first, last, half = min(points), max(points), FIT_TOKENS // 2
    wanted = np.unique(np.r_[np.geomspace(first, last, half), np.linspace(first, last, half)].astype(int))
    tokens = [t for t in wanted.tolist() if points.get(t, 0) > 0]
    return np.array(tokens, dtype=np.float64), np.array([points[t] for t in tokens])


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


def _below_peak(values: dict[str, Any]) -> dict[str, Any]:
    return {**_within_limits(values), "efficiency": min(values["efficiency"], MAX_PREFILL_EFFICIENCY)}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints YAML (fit) or a Markdown table (check)."""
    parser = argparse.ArgumentParser(prog="python -m llm_profile.calibrate", description=__doc__)
    parser.add_argument("--profiles", type=Path, required=True, help="folder with {hardware}/{model}/tp{N}")
    parser.add_argument("--hardware", required=True, help="name of the card")
    parser.add_argument("--check", action="store_true", help="print the errors of the existing description")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="print the errors of each model when only the others are fitted",
    )
    options = parser.parse_args(arguments)
    try:
        file = find_hardware(options.hardware)
        if file is None:
            names = ", ".join(known_hardware())
            raise InputError("", "--hardware", f"{options.hardware!r} has no description; described: {names}")
        card = load_hardware(file)
        if (options.profiles / FIT_RUN).is_file():
            runs = options.profiles
            print(table_text(card.name, run_errors(card, runs)) if options.check else run_text(card, runs))
            return 0
        profiles = read_profiles(options.profiles, options.hardware)
        if options.held_out:
            print(table_text(card.name, held_out_errors(card, profiles, fit)))
            return 0
        print(
            table_text(card.name, error_table(card, profiles)) if options.check else fit_text(card, profiles)
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def fit_text(card: Hardware, profiles: Sequence[Profile]) -> str:
    """The ``coefficients`` and ``fit`` sections of a description, as YAML."""
    fitted = card.model_copy(update={"coefficients": fit(card, profiles)})
    assert fitted.coefficients is not None
    record = {
        "data": "tables of " + ", ".join(profile.key for profile in profiles),
        "max_tokens": max(max(points) for profile in profiles for points in profile.layers.values()),
        **_attention_range(profiles),
        "errors": _rounded_errors(error_table(fitted, profiles)),
    }
    return _yaml({"coefficients": fitted.coefficients.model_dump(), "fit": record})


def _attention_range(profiles: Sequence[Profile]) -> dict[str, int]:
    """Largest prefill and decode batches that were fitted."""
    prefills = [(n, c) for p in profiles for n, c, _ in (p.prefill_samples(), p.prompt_samples())]
    decodes = [p.decode_samples() for p in profiles]
    return {
        "max_keys": int(max((n + c).max(initial=0) for n, c in prefills)),
        "max_requests": int(max(n.max(initial=0) for n, _, _ in decodes)),
        "max_kv": int(max(kv.max(initial=0) for _, kv, _ in decodes)),
    }


def run_text(card: Hardware, folder: Path) -> str:
    """``step_overhead_ns``, ``coefficients`` and ``fit`` from recorded iterations, as YAML."""
    coefficients, overhead_ns = fit_run(card, folder)
    fitted = card.model_copy(update={"coefficients": coefficients, "step_overhead_ns": overhead_ns})
    record = {
        "data": f"iterations of a recorded vLLM run ({FIT_RUN})",
        **fitted_range(folder),
        "errors": _rounded_errors(run_errors(fitted, folder)),
    }
    return _yaml({"step_overhead_ns": overhead_ns, "coefficients": coefficients.model_dump(), "fit": record})


def _rounded_errors(errors: Errors) -> dict[str, dict[str, float]]:
    return {
        name: {"median": round(median, 3), "p90": round(p90, 3)} for name, (median, p90) in errors.items()
    }


def _yaml(sections: dict[str, Any]) -> str:
    return yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=110).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())

"""Fit the matrix layers of a description to measured tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_profile.calibrate_values import rounded, within_limits
from llm_profile.hardware import Gemm, Hardware
from llm_profile.layer_shape import LayerShape
from llm_profile.layers import GEMM_LAYERS, fused_shape
from llm_profile.least_squares import fit_positive, loss
from llm_profile.profiles import Profile
from llm_profile.roofline import kernel_layers
from llm_profile.roofline_formulas import gemm_ns
from llm_profile.table_csv import Floats

FIT_TOKENS = 100
"""Token counts of a curve that a fit looks at, half of them evenly spaced, half geometrically."""
BLOCK_WEIGHT = 4
"""How many curves the sum of a block's matrix layers, which a simulation adds up, counts for."""
PLAIN = {"padding": 0.5}
FORMS = (PLAIN, PLAIN | {"ramp": 100.0}, PLAIN | {"throttle": 0.1}, PLAIN | {"ramp": 100.0, "throttle": 0.1})
"""Coefficients of a fit beside those that no card does without, the simplest first, and where they start."""
AS_GOOD = 1.02
"""Ratio of two losses that is no reason for the form with more coefficients."""

Curve = tuple[list[LayerShape], Floats, Floats]
"""(kernels, tokens, ns): the time of some kernels together."""


def fit_gemm(card: Hardware, profiles: Sequence[Profile]) -> Gemm:
    """One set of coefficients for all matrix layers of all models and tensor-parallel sizes.

    ``ramp`` and ``throttle`` are fitted where they bring models that were left out of a fit nearer (tensor-parallel
    sizes where there is one model), and are 0 otherwise.
    """
    flags = {
        "fused_qkv": all(profile.fused_qkv for profile in profiles),
        "fused_gate_up": all(profile.fused_gate_up for profile in profiles),
    }
    curves = {profile.key: _curves(profile, Gemm(**flags)) for profile in profiles}
    scores = [_left_out_loss(card, profiles, curves, form) for form in FORMS]
    form = next(f for f, score in zip(FORMS, scores, strict=True) if score <= AS_GOOD * min(scores))
    values = _fit(card, [curve for of in curves.values() for curve in of], form)
    return Gemm(**rounded(values), **flags)


def _left_out_loss(
    card: Hardware, profiles: Sequence[Profile], curves: dict[str, list[Curve]], form: dict[str, float]
) -> float:
    """Mean loss over profiles of what the others predict; 0 for a single profile."""
    models = {profile.key: profile.model.name for profile in profiles}
    groups = models if len(set(models.values())) > 1 else {key: key for key in models}
    losses = []
    for group in sorted(set(groups.values()) if len(models) > 1 else ()):
        others = [curve for key, of in curves.items() if groups[key] != group for curve in of]
        left_out = [curve for key, of in curves.items() if groups[key] == group for curve in of]
        predicted = _predict(card, left_out, _fit(card, others, form))
        losses.append(loss(predicted, _measured(left_out)))
    return sum(losses) / max(1, len(losses))


def _fit(card: Hardware, curves: Sequence[Curve], form: dict[str, float]) -> dict[str, Any]:
    always = {"fixed_ns", "memory_efficiency", "compute_efficiency", "wave", "sharpness"}
    start = Gemm().model_dump(include=always) | form
    values, _ = fit_positive(lambda values: _predict(card, curves, values), _measured(curves), start)
    return within_limits(values)


def _predict(card: Hardware, curves: Sequence[Curve], values: dict[str, Any]) -> Floats:
    c = Gemm.model_construct(**within_limits(values))
    bandwidth = card.memory.bandwidth_gbps
    times = [
        sum(gemm_ns(c, card, shape, tokens, bandwidth_gbps=bandwidth, weight_bits=16) for shape in shapes)
        for shapes, tokens, _ in curves
    ]
    return np.concatenate(times)


def _measured(curves: Sequence[Curve]) -> Floats:
    return np.concatenate([ns for _, _, ns in curves])


def _curves(profile: Profile, flags: Gemm) -> list[Curve]:
    """Matrix layers one by one, and their sum over a block."""
    block = GEMM_LAYERS - {"lm_head"}
    sums = [(tuple(block), profile.block_ns(block))] * BLOCK_WEIGHT
    curves = []
    for layers, points in [*profile.kernels(), *sums]:
        if GEMM_LAYERS.issuperset(layers) and points:
            kernels = [kernel_layers(flags, layer) for layer in layers]
            shapes = [fused_shape(profile.model, kernel, profile.tp_size) for kernel in kernels if kernel]
            curves.append((shapes, *thinned_curve(points)))
    return curves


def thinned_curve(points: dict[int, float]) -> tuple[Floats, Floats]:
    """(tokens, ns) of a curve, thinned to the token counts of a fit."""
    first, last, half = min(points), max(points), FIT_TOKENS // 2
    wanted = np.unique(np.r_[np.geomspace(first, last, half), np.linspace(first, last, half)].astype(int))
    tokens = [t for t in wanted.tolist() if points.get(t, 0) > 0]
    return np.array(tokens, dtype=np.float64), np.array([points[t] for t in tokens])

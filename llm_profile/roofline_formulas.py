"""Roofline formulas of single kernels (Williams, Waterman and Patterson 2009); coefficients are in ``hardware``.

Bandwidths in GB/s are bytes a nanosecond, and peaks in TFLOPS are 1e3 flops a nanosecond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_profile.hardware import Elementwise, Gemm, Hardware, Router, peak_flops_per_ns
from llm_profile.layer_shape import LayerShape

Floats = NDArray[np.float64]
TILE = 128
"""Side of an output tile of a matrix kernel, in elements."""
BOOST_NS = 250_000.0
"""Time of computing after which half of what a card slows down under full load has set in."""
LEAST_TILE = 16
"""Tokens of the smallest tile: few tokens are computed in tiles of 16, 32 or 64."""


def pnorm(a: Floats, b: Floats, p: float) -> Floats:
    """Smooth maximum of two times; at least the larger, at most their sum.

    >>> float(pnorm(np.array(3.0), np.array(4.0), 2.0))
    5.0
    """
    high = np.maximum(a, b)
    ratio = np.minimum(a, b) / np.maximum(high, 1e-9)
    smooth: Floats = high * (1.0 + ratio**p) ** (1.0 / p)
    return smooth


def gemm_ns(
    c: Gemm, card: Hardware, shape: LayerShape, tokens: Floats, *, bandwidth_gbps: float, weight_bits: int
) -> Floats:
    """Time of ``tokens`` rows times one weight matrix."""
    activations = tokens * (shape.input_width + shape.output_width) * activation_bytes(weight_bits)
    memory_ns = (shape.weight_elements * weight_bits / 8 + activations) / (
        bandwidth_gbps * c.memory_efficiency
    )
    tile = np.clip(2 ** np.ceil(np.log2(np.maximum(tokens, 1))), LEAST_TILE, TILE)
    filled = tokens + c.padding * (np.ceil(tokens / tile) * tile - tokens)
    filled += c.wave * card.multiprocessors * TILE**2 / shape.output_width
    peak = peak_flops_per_ns(card, weight_bits) * c.compute_efficiency
    compute_ns = shape.flops_per_token * filled * (1 + c.ramp / shape.input_width) / peak
    compute_ns = compute_ns * (1 + c.throttle * compute_ns / (compute_ns + BOOST_NS))
    return c.fixed_ns + pnorm(memory_ns, compute_ns, c.sharpness)


def elementwise_ns(
    c: Elementwise, card: Hardware, shape: LayerShape, tokens: Floats, *, bandwidth_gbps: float, bits: int
) -> Floats:
    """Time of a layer that only moves activations (norm, rope, activation, embedding)."""
    moved = tokens * (shape.input_width + shape.output_width) * activation_bytes(bits)
    cached = np.minimum(moved, card.cache_mb * 1e6 / c.working_set)
    cached_ns = cached / (bandwidth_gbps * c.cached_efficiency)
    return c.fixed_ns + cached_ns + (moved - cached) / (bandwidth_gbps * c.efficiency)


def activation_bytes(weight_bits: int) -> int:
    """Activations keep 16 bits with 8-bit weights."""
    return 4 if weight_bits == 32 else 2


def router_ns(c: Router, matrix_ns: Floats, tokens: Floats) -> Floats:
    """Time of a router whose matrix takes ``matrix_ns``."""
    return matrix_ns + c.fixed_ns + c.token_ns * tokens

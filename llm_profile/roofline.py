"""Latencies of any dense model from a hardware description (:mod:`llm_profile.hardware`).

A roofline (Williams, Waterman and Patterson 2009): a layer takes as long as the slower of moving its bytes
and computing its flops, each at an efficiency, plus a fixed cost. Bandwidths in GB/s are bytes a nanosecond,
and peaks in TFLOPS are 1e3 flops a nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_roofline import AttentionRoofline
from llm_profile.hardware import (
    Coefficients,
    Decode,
    Elementwise,
    Gemm,
    Hardware,
    find_hardware,
    known_hardware,
    load_hardware,
    peak_flops_per_ns,
)
from llm_profile.layers import (
    GATE_UP_LAYERS,
    GEMM_LAYERS,
    LAYERS,
    QKV_LAYERS,
    LayerShape,
    fused_shape,
    layer_shape,
)
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source

Floats = NDArray[np.float64]
TILE = 128
"""Side of an output tile of a matrix kernel, in elements."""
LEAST_TILE = 16
"""Tokens of the smallest tile: few tokens are computed in tiles of 16, 32 or 64."""
BITS = (8, 16, 32)
MLP_LAYERS = ("gate_proj", "up_proj", "act_fn", "down_proj")
ELEMENTWISE_CLASS = {
    "embedding": "embedding",
    "input_layernorm": "norm",
    "post_layernorm": "norm",
    "final_layernorm": "norm",
    "rope": "rope",
    "act_fn": "activation",
}


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
    activations = tokens * (shape.input_width + shape.output_width) * _activation_bytes(weight_bits)
    memory_ns = (shape.weight_elements * weight_bits / 8 + activations) / (
        bandwidth_gbps * c.memory_efficiency
    )
    tile = np.clip(2 ** np.ceil(np.log2(np.maximum(tokens, 1))), LEAST_TILE, TILE)
    filled = tokens + c.padding * (np.ceil(tokens / tile) * tile - tokens)
    filled += c.wave * card.multiprocessors * TILE**2 / shape.output_width
    peak = peak_flops_per_ns(card, weight_bits) * c.compute_efficiency
    return c.fixed_ns + pnorm(memory_ns, shape.flops_per_token * filled / peak, c.sharpness)


def elementwise_ns(
    c: Elementwise, card: Hardware, shape: LayerShape, tokens: Floats, *, bandwidth_gbps: float, bits: int
) -> Floats:
    """Time of a layer that only moves activations (norm, rope, activation, embedding)."""
    moved = tokens * (shape.input_width + shape.output_width) * _activation_bytes(bits)
    cached = np.minimum(moved, card.cache_mb * 1e6 / c.working_set)
    cached_ns = cached / (bandwidth_gbps * c.cached_efficiency)
    return c.fixed_ns + cached_ns + (moved - cached) / (bandwidth_gbps * c.efficiency)


def _activation_bytes(weight_bits: int) -> int:
    """Activations keep 16 bits with 8-bit weights."""
    return 4 if weight_bits == 32 else 2


class RooflineLatencyModel:
    """Latencies from a hardware description; implements :class:`~llm_profile.protocol.LatencyModel`."""

    def __init__(self, card: Hardware, query: LatencyQuery) -> None:
        coefficients = card.coefficients or Coefficients()
        repacked = query.packed_decode and not coefficients.decode.gqa_packed
        if repacked:
            coefficients = coefficients.model_copy(update={"decode": Decode()})
        self.name = f"{'calibrated' if card.coefficients else 'estimated'}:{card.name}"
        if repacked:
            self.name += ":packed"
        self.step_overhead_ns = card.step_overhead_ns
        self._calibrated = card.coefficients is not None
        self._decode_fitted = (
            not repacked
            and card.fit is not None
            and any(key.endswith(("decode", "iteration")) for key in card.fit.errors)
        )
        self._fitted_tokens = card.fit.max_tokens if card.fit else 0
        bandwidth_gbps = query.mem_bw_gbps or card.memory.bandwidth_gbps
        self._layers = _layer_functions(card, coefficients, query, bandwidth_gbps)
        self._attention = AttentionRoofline(card, coefficients, query, bandwidth_gbps)

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one dense layer for each of ``tokens``."""
        try:
            function = self._layers[layer]
        except KeyError:
            raise InputError(self.name, layer, "not a dense layer of this model") from None
        return np.rint(function(np.asarray(tokens, dtype=np.float64))).astype(np.int64)

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention of a batch, priced request by request."""
        return self._attention.ns(prefill_q, prefill_context, decode_kv)

    def source(self, layer: str, tokens: int) -> Source:
        """Estimated where efficiencies are generic; else inside or outside the token counts that were fitted."""
        if not self._calibrated or (layer == "attn" and not self._decode_fitted):
            return Source.ESTIMATED
        inside = layer == "attn" or tokens <= self._fitted_tokens
        return Source.INTERPOLATED if inside else Source.EXTRAPOLATED


def _layer_functions(
    card: Hardware, coefficients: Coefficients, query: LatencyQuery, bandwidth_gbps: float
) -> dict[str, Callable[[Floats], Floats]]:
    """A function of token counts for each dense layer of the query's model."""

    def gemm(shape: LayerShape) -> Callable[[Floats], Floats]:
        return lambda tokens: gemm_ns(
            coefficients.gemm,
            card,
            shape,
            tokens,
            bandwidth_gbps=bandwidth_gbps,
            weight_bits=query.weight_bits,
        )

    def elementwise(shape: LayerShape, c: Elementwise) -> Callable[[Floats], Floats]:
        return lambda tokens: elementwise_ns(
            c, card, shape, tokens, bandwidth_gbps=bandwidth_gbps, bits=query.weight_bits
        )

    functions: dict[str, Callable[[Floats], Floats]] = {}
    for layer in LAYERS:
        if layer == "attn" or (query.model.is_moe and layer in MLP_LAYERS):
            continue
        if layer not in GEMM_LAYERS:
            shape = layer_shape(query.model, layer, query.tp_size)
            functions[layer] = elementwise(shape, getattr(coefficients, ELEMENTWISE_CLASS[layer]))
        elif kernel := kernel_layers(coefficients.gemm, layer):
            functions[layer] = gemm(fused_shape(query.model, kernel, query.tp_size))
        else:
            functions[layer] = np.zeros_like
    return functions


def kernel_layers(c: Gemm, layer: str) -> tuple[str, ...]:
    """Layers of the kernel that ``layer`` stands for; none if another layer stands for it."""
    for fused, layers in ((c.fused_qkv, QKV_LAYERS), (c.fused_gate_up, GATE_UP_LAYERS)):
        if fused and layer in layers:
            return layers if layer == layers[0] else ()
    return (layer,)


def open_roofline(query: LatencyQuery) -> RooflineLatencyModel:
    """Open the description of the query's card; :class:`NoLatencyError` if there is none."""
    for field, bits in (("weight_bits", query.weight_bits), ("kv_bits", query.kv_bits)):
        if bits not in BITS:
            raise InputError(query.hardware, field, f"{bits}: must be one of {', '.join(map(str, BITS))}")
    if query.mem_bw_gbps is not None and query.mem_bw_gbps <= 0:
        raise InputError(query.hardware, "mem_bw", f"{query.mem_bw_gbps:g}: must be positive")
    file = find_hardware(query.hardware)
    if file is None:
        raise NoLatencyError(
            "", "hardware", f"no description {query.hardware}.yaml; described: {', '.join(known_hardware())}"
        )
    return RooflineLatencyModel(load_hardware(file), query)


def known_descriptions(query: LatencyQuery) -> list[str]:
    """Hardware names that have a description (whatever the model)."""
    del query
    return known_hardware()

"""Latencies of any model from a hardware description (:mod:`llm_profile.hardware`).

A roofline (Williams, Waterman and Patterson 2009): a layer takes as long as the slower of moving its bytes
and computing its flops, each at an efficiency, plus a fixed cost. Bandwidths in GB/s are bytes a nanosecond,
and peaks in TFLOPS are 1e3 flops a nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_roofline import AttentionRoofline, decodes_unpacked
from llm_profile.experts import ExpertRoofline, Experts, NoExperts
from llm_profile.hardware import (
    Coefficients,
    Decode,
    Elementwise,
    Fit,
    Gemm,
    Hardware,
    Router,
    find_hardware,
    known_hardware,
    load_hardware,
)
from llm_profile.layer_shape import LayerShape
from llm_profile.layers import (
    GATE,
    GATE_UP_LAYERS,
    GEMM_LAYERS,
    MLP_LAYERS,
    QKV_LAYERS,
    SHARED_EXPERTS,
    fused,
    fused_shape,
    layer_shape,
    model_layers,
    shared_expert_shapes,
)
from llm_profile.mla import FUSED_DOWN_LAYERS, MLA_GEMM_LAYERS
from llm_profile.mla_roofline import MlaRoofline
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source
from llm_profile.roofline_formulas import Floats, elementwise_ns, gemm_ns, router_ns

BITS = (8, 16, 32)
ELEMENTWISE_CLASS = {
    "embedding": "embedding",
    "input_layernorm": "norm",
    "post_layernorm": "norm",
    "final_layernorm": "norm",
    "rope": "rope",
    "act_fn": "activation",
}
"""Coefficients of each layer that only moves activations."""
_MATRICES = GEMM_LAYERS | MLA_GEMM_LAYERS
Timing = Callable[[Floats], Floats]


class RooflineLatencyModel:
    """Latencies from a hardware description; implements :class:`~llm_profile.protocol.LatencyModel`."""

    def __init__(self, card: Hardware, query: LatencyQuery) -> None:
        coefficients = card.coefficients or Coefficients()
        repacked = (
            query.packed_decode
            and not coefficients.decode.gqa_packed
            and not decodes_unpacked(card, query.model)
        )
        if repacked:
            coefficients = coefficients.model_copy(update={"decode": Decode()})
        self.name = f"{'calibrated' if card.coefficients else 'estimated'}:{card.name}"
        if repacked:
            self.name += ":packed"
        self.step_overhead_ns = card.step_overhead_ns
        self._fit = None if card.coefficients is None else card.fit or Fit(data="")
        self._decode_fitted = (
            not repacked
            and card.fit is not None
            and any(key.endswith(("decode", "iteration")) for key in card.fit.errors)
        )
        bandwidth_gbps = query.mem_bw_gbps or card.memory.bandwidth_gbps
        self._experts: Experts = (
            ExpertRoofline(card, coefficients.moe, query, bandwidth_gbps)
            if query.model.is_moe
            else NoExperts(self.name, "this is a dense model")
        )
        self._layers = _layer_functions(card, coefficients, query, bandwidth_gbps)
        form = MlaRoofline if query.model.is_mla else AttentionRoofline
        self._attention = form(card, coefficients, query, bandwidth_gbps)
        self._attention_fitted = not query.model.is_mla

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

    def moe_ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of one rank's experts: a launch, and what each expert with tokens adds."""
        return self._experts.ns(tokens_per_expert)

    def moe_source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """Estimated, or inside or outside the experts that were fitted."""
        return self._experts.source(tokens_per_expert)

    def source(self, layer: str, tokens: int) -> Source:
        """Estimated where efficiencies are generic; else inside or outside the token counts that were fitted."""
        if self._fit is None:
            return Source.ESTIMATED
        return Source.INTERPOLATED if tokens <= self._fit.max_tokens else Source.EXTRAPOLATED

    def attention_source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Estimated where efficiencies are generic or another form's; else inside or outside what was fitted."""
        fit = self._fit
        if fit is None or not self._attention_fitted or (decode_kv.size and not self._decode_fitted):
            return Source.ESTIMATED
        inside = not prefill_q.size or int((prefill_q + prefill_context).max()) <= fit.max_keys
        if decode_kv.size:
            total_kv = int(np.add.reduce(decode_kv))
            inside = inside and decode_kv.size <= fit.max_requests and total_kv <= fit.max_kv
        return Source.INTERPOLATED if inside else Source.EXTRAPOLATED


def _layer_functions(
    card: Hardware, coefficients: Coefficients, query: LatencyQuery, bandwidth_gbps: float
) -> dict[str, Timing]:
    """A function of token counts for each dense layer of the query's model."""

    def gemm(shape: LayerShape) -> Timing:
        return lambda tokens: gemm_ns(
            coefficients.gemm,
            card,
            shape,
            tokens,
            bandwidth_gbps=bandwidth_gbps,
            weight_bits=query.weight_bits,
        )

    def elementwise(shape: LayerShape, c: Elementwise) -> Timing:
        return lambda tokens: elementwise_ns(
            c, card, shape, tokens, bandwidth_gbps=bandwidth_gbps, bits=query.weight_bits
        )

    def dense(layer: str, shape: LayerShape) -> Timing:
        if layer in _MATRICES:
            return gemm(shape)
        return elementwise(shape, getattr(coefficients, ELEMENTWISE_CLASS.get(layer, "norm")))

    model = query.model
    functions: dict[str, Timing] = {}
    for layer in model_layers(model):
        if layer == GATE:
            functions[layer] = _router(coefficients.router, gemm(layer_shape(model, GATE, query.tp_size)))
        elif layer == SHARED_EXPERTS:
            shapes = shared_expert_shapes(model, query.expert_tp_size)
            functions[layer] = _shared_experts(coefficients.gemm, shapes, dense)
        elif layer not in _MATRICES:
            if layer != "attn":
                functions[layer] = dense(layer, layer_shape(model, layer, query.tp_size))
        elif kernel := kernel_layers(coefficients.gemm, layer, _qkv_layers(model)):
            functions[layer] = gemm(fused_shape(model, kernel, query.tp_size))
        else:
            functions[layer] = np.zeros_like
    return functions


def _router(c: Router, matrix: Timing) -> Timing:
    """The router's matrix, and the choice of experts."""
    return np.zeros_like if c.in_experts else lambda tokens: router_ns(c, matrix(tokens), tokens)


def _shared_experts(
    c: Gemm, shapes: Mapping[str, LayerShape], dense: Callable[[str, LayerShape], Timing]
) -> Timing:
    """An MLP as one row: its kernels, by the same formulas as a dense block's."""
    kernels = [kernel for layer in MLP_LAYERS if (kernel := kernel_layers(c, layer))]
    parts = [dense(kernel[0], fused([shapes[layer] for layer in kernel])) for kernel in kernels]
    return lambda tokens: sum((part(tokens) for part in parts), np.zeros_like(tokens))


def _qkv_layers(model: ModelConfig) -> tuple[str, ...]:
    """Layers that kernels with fused q, k and v compute as one."""
    if not model.is_mla:
        return QKV_LAYERS
    return FUSED_DOWN_LAYERS if model.q_lora_rank else ()


def kernel_layers(c: Gemm, layer: str, qkv_layers: tuple[str, ...] = QKV_LAYERS) -> tuple[str, ...]:
    """Layers of the kernel that ``layer`` stands for; none if another layer stands for it."""
    for is_fused, layers in ((c.fused_qkv, qkv_layers), (c.fused_gate_up, GATE_UP_LAYERS)):
        if is_fused and layer in layers:
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

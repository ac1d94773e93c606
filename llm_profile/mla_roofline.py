"""Multi-head latent attention of one layer of one rank from a hardware description.

Prompts are attended to as by other models, with the widths of their heads (:mod:`.attention_roofline`). What is added:
keys and values of a chunk's cached context are made again of the cached vectors; and a decode's heads all read one
vector a token, which takes so many flops a byte that computing may take longer than reading. No card is fitted to such
kernels; efficiencies are those of the card's other attention and matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_profile.attention_roofline import AttentionRoofline
from llm_profile.hardware import Coefficients, Hardware, peak_flops_per_ns
from llm_profile.layers import heads_per_rank, layer_shape
from llm_profile.protocol import LatencyQuery
from llm_profile.roofline_formulas import Floats, gemm_ns


class MlaRoofline(AttentionRoofline):
    """Latent attention of one layer of one rank."""

    def __init__(
        self, card: Hardware, coefficients: Coefficients, query: LatencyQuery, bandwidth_gbps: float
    ) -> None:
        super().__init__(card, coefficients, query, bandwidth_gbps)
        self._shared_kernel = False  # prompts and decodes have kernels of different widths
        model = query.model
        heads, _ = heads_per_rank(model, query.tp_size)
        flops = 2 * heads * (model.kv_head_elements + model.kv_lora_rank)
        peak = peak_flops_per_ns(card, 32 if query.weight_bits == 32 else 16)
        self._kv_token_ns = max(self._kv_token_ns, flops / (peak * coefficients.prefill.efficiency))
        shape = layer_shape(model, "kv_b_proj", query.tp_size)

        def expansion_ns(context: Floats) -> Floats:
            return gemm_ns(
                coefficients.gemm,
                card,
                shape,
                context,
                bandwidth_gbps=bandwidth_gbps,
                weight_bits=query.weight_bits,
            )

        self._expansion_ns = expansion_ns

    def _prefills_ns(self, n: NDArray[np.int64], context: NDArray[np.int64]) -> float:
        """As of other models, and keys and values of the context, made again of what is cached."""
        cached = int(context.sum())
        expansion_ns = float(self._expansion_ns(np.array([float(cached)]))[0]) if cached else 0.0
        return super()._prefills_ns(n, context) + expansion_ns

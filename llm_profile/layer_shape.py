"""Sizes of a layer: what it stores, reads, writes and computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Size of one layer on one rank.

    ``weight_elements`` are stored (an embedding stores its table but reads one row a token);
    ``input_width`` and ``output_width`` are elements a token; ``flops_per_token`` counts a multiply-add as 2.
    """

    weight_elements: int
    input_width: int
    output_width: int
    flops_per_token: int


def gemm_shape(inputs: int, outputs: int, *, bias: bool, extra_weights: int = 0) -> LayerShape:
    """A matrix of ``inputs`` x ``outputs``; ``extra_weights`` are stored with it."""
    weights = inputs * outputs + (outputs if bias else 0) + extra_weights
    return LayerShape(weights, inputs, outputs, 2 * inputs * outputs)


def norm_shape(width: int) -> LayerShape:
    """RMSNorm of ``width`` elements."""
    return LayerShape(width, width, width, 4 * width)


def mlp_shapes(
    hidden: int, columns: int, *, bias: bool
) -> tuple[LayerShape, LayerShape, LayerShape, LayerShape]:
    """Gate projection, up projection, activation and down projection of a gated MLP."""
    into = gemm_shape(hidden, columns, bias=bias)
    activation = LayerShape(0, 2 * columns, columns, 5 * columns)
    return into, into, activation, gemm_shape(columns, hidden, bias=bias)

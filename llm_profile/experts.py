"""Time of the experts of one rank, by the tokens that each of them got (``LatencyModel.moe_ns``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.hardware import Hardware, Moe, peak_flops_per_ns
from llm_profile.layer_curve import LayerCurve
from llm_profile.layers import EXPERT_LAYERS, expert_shapes
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.roofline_formulas import activation_bytes, pnorm
from llm_profile.table_csv import Floats

Counts = NDArray[np.int64]


class Experts(Protocol):
    """The experts of one rank; ``tokens_per_expert`` has an element for each of them."""

    def ns(self, tokens_per_expert: Counts) -> int:
        """Time of one layer's experts on this rank, collectives and router not included."""
        ...

    def source(self, tokens_per_expert: Counts) -> Source:
        """How :meth:`ns` gets this number."""
        ...


class NoExperts:
    """Experts that a source knows nothing of."""

    def __init__(self, name: str, reason: str) -> None:
        self._name = name
        self._reason = reason

    def ns(self, tokens_per_expert: Counts) -> int:
        """Raises InputError."""
        raise InputError(self._name, "experts", self._reason)

    def source(self, tokens_per_expert: Counts) -> Source:
        """Raises InputError."""
        raise InputError(self._name, "experts", self._reason)


def working(tokens_per_expert: Counts) -> Counts:
    """Tokens of the experts that got any; the others do not run."""
    counts = np.asarray(tokens_per_expert)
    return counts[counts > 0]


class ExpertCurves:
    """Experts run one after the other, each layer by its measured curve."""

    def __init__(self, curves: Mapping[str, LayerCurve]) -> None:
        self._curves = [curves[layer] for layer in EXPERT_LAYERS]

    def ns(self, tokens_per_expert: Counts) -> int:
        """Sum over experts and their four layers."""
        counts = working(tokens_per_expert)
        return sum(int(curve.ns(counts).sum()) for curve in self._curves)

    def source(self, tokens_per_expert: Counts) -> Source:
        """The least certain of the experts' layers."""
        counts = np.unique(working(tokens_per_expert)).tolist()
        found = (curve.source(n) for curve in self._curves for n in counts)
        return max(found, key=list(Source).index, default=Source.MEASURED)


def expert_ns(
    c: Moe, card: Hardware, query: LatencyQuery, tokens: Floats, *, bandwidth_gbps: float
) -> Floats:
    """Time that each expert with ``tokens`` adds by the roofline of a description, see :class:`Moe`."""
    shapes = expert_shapes(query.model, query.expert_tp_size).values()
    weights = sum(shape.weight_elements for shape in shapes) * query.weight_bits / 8
    widths = sum(shape.input_width + shape.output_width for shape in shapes)
    flops = sum(shape.flops_per_token for shape in shapes)
    moved = weights + tokens * widths * activation_bytes(query.weight_bits)
    padded = np.ceil(tokens / c.block_tokens) * c.block_tokens
    compute_ns = flops * padded / (peak_flops_per_ns(card, query.weight_bits) * c.compute_efficiency)
    return c.expert_ns + pnorm(moved / (bandwidth_gbps * c.memory_efficiency), compute_ns, c.sharpness)


class ExpertRoofline:
    """Experts by the grouped roofline of a description."""

    def __init__(self, card: Hardware, c: Moe, query: LatencyQuery, bandwidth_gbps: float) -> None:
        self._card = card
        self._c = c
        self._query = query
        self._bandwidth_gbps = bandwidth_gbps
        fit = card.fit
        self._fitted = fit is not None and any(key.endswith(" moe") for key in fit.errors)
        self._most = fit.max_tokens if fit else 0

    def ns(self, tokens_per_expert: Counts) -> int:
        """One launch, and what each expert with tokens adds; 0 without tokens."""
        counts = working(tokens_per_expert).astype(np.float64)
        if not counts.size:
            return 0
        added = expert_ns(self._c, self._card, self._query, counts, bandwidth_gbps=self._bandwidth_gbps)
        return round(self._c.fixed_ns + float(added.sum()))

    def source(self, tokens_per_expert: Counts) -> Source:
        """Estimated where no experts were fitted; else inside or outside the token counts that were."""
        if not self._fitted:
            return Source.ESTIMATED
        most = int(np.max(tokens_per_expert, initial=0))
        return Source.INTERPOLATED if most <= self._most else Source.EXTRAPOLATED

"""Fit the experts and the router of a description to measured tables of mixture-of-experts models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_profile.experts import expert_ns
from llm_profile.hardware import Gemm, Hardware, Moe, Router
from llm_profile.layers import GATE, expert_shapes, layer_shape
from llm_profile.least_squares import fit_positive
from llm_profile.profiles import Profile
from llm_profile.roofline_formulas import gemm_ns, router_ns
from llm_profile.table_csv import Floats

START = {"memory_efficiency": 0.8, "compute_efficiency": 0.5, "sharpness": 2.5}
MOST_MEMORY_EFFICIENCY = 1.2
"""A little of an expert's weights may still be in the cache."""
BLOCK_TOKENS = (1, 16, 64, 128)
ROUTER_START = {"fixed_ns": 2e4, "token_ns": 5.0}
SAMPLES = 200


def fit_moe(card: Hardware, profiles: Sequence[Profile]) -> Moe:
    """Coefficients of experts.

    Experts that run one at a time have no common launch; those of grouped kernels, of one model, have no cost of
    their own that could be told from the reading of their weights.
    """
    samples = [(p, _out_of_cache(card, p)) for p in profiles if p.experts.size]
    if not samples:
        return Moe()
    grouped = any((rows[:, 1] > 1).any() for _, rows in samples)
    start = {**START, ("fixed_ns" if grouped else "expert_ns"): 1e4}
    measured = np.concatenate([rows[:, 2] for _, rows in samples])
    fits = []
    for block_tokens in BLOCK_TOKENS:

        def predict(values: dict[str, Any], block_tokens: int = block_tokens) -> Floats:
            c = _moe(values, block_tokens)
            return np.concatenate([moe_ns(card, p, c, rows) for p, rows in samples])

        values, loss = fit_positive(predict, measured, start)
        fits.append((loss, _moe({k: float(f"{v:.4g}") for k, v in values.items()}, block_tokens)))
    return min(fits, key=lambda fit: fit[0])[1]


def fit_router(card: Hardware, profiles: Sequence[Profile], gemm: Gemm) -> Router:
    """What routers take beyond their matrix; nothing where they were measured with the experts."""
    moe = [p for p in profiles if p.model.is_moe]
    with_rows = [p for p in moe if GATE in p.layers]
    if not with_rows:
        return Router(in_experts=any(p.experts.size for p in moe))
    curves = [(p, *gate_samples(p)) for p in with_rows]
    measured = np.concatenate([ns for _, _, ns in curves])

    def predict(values: dict[str, Any]) -> Floats:
        c = Router.model_construct(**values)
        return np.concatenate([gate_ns(card, p, gemm, c, tokens) for p, tokens, _ in curves])

    values, _ = fit_positive(predict, measured, ROUTER_START)
    fixed_ns, token_ns = (float(f"{values[name]:.4g}") for name in ROUTER_START)
    return Router(fixed_ns=fixed_ns, token_ns=token_ns)


def moe_ns(card: Hardware, profile: Profile, c: Moe, rows: Floats) -> Floats:
    """Predicted time of rows (tokens of each expert, experts, measured ns)."""
    added = expert_ns(
        c, card, profile.query(card.name), rows[:, 0], bandwidth_gbps=card.memory.bandwidth_gbps
    )
    return c.fixed_ns + rows[:, 1] * added


def gate_samples(profile: Profile) -> tuple[Floats, Floats]:
    """(tokens, ns) of a measured router."""
    points = profile.layers[GATE]
    return np.array(list(points), dtype=np.float64), np.array(list(points.values()))


def gate_ns(card: Hardware, profile: Profile, gemm: Gemm, c: Router, tokens: Floats) -> Floats:
    """Predicted time of a router."""
    shape = layer_shape(profile.model, GATE, profile.tp_size)
    bandwidth = card.memory.bandwidth_gbps
    return router_ns(c, gemm_ns(gemm, card, shape, tokens, bandwidth_gbps=bandwidth, weight_bits=16), tokens)


def _moe(values: dict[str, Any], block_tokens: int) -> Moe:
    return Moe.model_construct(
        fixed_ns=values.get("fixed_ns", 0.0),
        expert_ns=values.get("expert_ns", 0.0),
        memory_efficiency=min(values["memory_efficiency"], MOST_MEMORY_EFFICIENCY),
        compute_efficiency=values["compute_efficiency"],
        block_tokens=block_tokens,
        sharpness=min(max(values["sharpness"], 1.0), 16.0),
    )


def _out_of_cache(card: Hardware, profile: Profile) -> Floats:
    """Rows whose weights do not fit into the cache: a kernel measured again and again would not read them."""
    shapes = expert_shapes(profile.model).values()
    expert_bytes = 2 * sum(shape.weight_elements for shape in shapes)
    rows = profile.experts[profile.experts[:, 1] * expert_bytes > card.cache_mb * 1e6]
    return rows[:: max(1, len(rows) // SAMPLES)]

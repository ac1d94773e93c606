"""Fit what decodes cost in the kernel of a prefill to measured batches of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_profile.attention_roofline import KEY_BLOCK, AttentionRoofline, Floats
from llm_profile.calibrate_values import rounded
from llm_profile.hardware import Coefficients, Hardware, Mixed
from llm_profile.layers import heads_per_rank
from llm_profile.least_squares import fit_positive
from llm_profile.profiles import Profile

SAMPLES = 3000
"""Rows of a profile that a fit looks at."""
START = {"tile_ns": 2400.0, "empty_ns": 350.0, "walk": 1.0, "memory_efficiency": 0.9}


def mixed_ns(card: Hardware, profile: Profile, coefficients: Coefficients, rows: Floats) -> Floats:
    """Predicted time of batches of one chunk and equal decodes; rows as in :attr:`Profile.mixed`, [4, batches]."""
    attention = AttentionRoofline(card, coefficients, profile.query(card.name), card.memory.bandwidth_gbps)
    n, context, decodes, kv = rows
    heads, _ = heads_per_rank(profile.model, profile.tp_size)
    tiles = np.ceil(n / coefficients.prefill.tile_rows) * heads
    prefill = np.maximum(attention.prefill_ns(n, context), (n + context) * attention.floor_ns)
    block_kv = decodes * np.ceil(kv / KEY_BLOCK) * KEY_BLOCK
    together: Floats = attention.mixed_ns(
        prefill, tiles, (tiles - heads) * decodes, (decodes, decodes + 1), (block_kv, kv)
    )
    together += coefficients.prefill.fixed_ns
    return together


def fit_mixed(card: Hardware, profiles: Sequence[Profile], fitted: Coefficients) -> Mixed:
    """Coefficients of mixed batches, given those of ``fitted`` for prefills and decodes alone."""
    measured = [(profile, _thinned(profile.mixed)) for profile in profiles if profile.mixed.size]
    if not measured or not card.shared_attention_kernel:
        return Mixed()

    def predict(values: dict[str, Any]) -> Floats:
        c = fitted.model_copy(update={"mixed": Mixed.model_construct(**_at_most_all(values))})
        return np.concatenate([mixed_ns(card, profile, c, rows[:4]) for profile, rows in measured])

    values, _ = fit_positive(predict, np.concatenate([rows[4] for _, rows in measured]), START)
    return Mixed(**rounded(_at_most_all(values)))


def _at_most_all(values: dict[str, float]) -> dict[str, Any]:
    """No more than the whole bandwidth."""
    return {**values, "memory_efficiency": min(values["memory_efficiency"], 1.0)}


def _thinned(rows: Floats) -> Floats:
    return rows[:, :: max(1, rows.shape[1] // SAMPLES)]

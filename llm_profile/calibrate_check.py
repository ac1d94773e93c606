"""How far a hardware description is from measured tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_roofline import AttentionRoofline
from llm_profile.calibrate_mixed import mixed_ns
from llm_profile.calibrate_moe import gate_ns, gate_samples, moe_ns
from llm_profile.hardware import Coefficients, Decode, Hardware, Prefill
from llm_profile.layers import BLOCK_LAYERS, GATE
from llm_profile.profiles import Profile
from llm_profile.roofline import RooflineLatencyModel

Floats = NDArray[np.float64]
Errors = dict[str, tuple[float, float]]


def held_out_errors(
    card: Hardware, profiles: Sequence[Profile], fit: Callable[[Hardware, Sequence[Profile]], Coefficients]
) -> Errors:
    """:func:`error_table` of each model under coefficients that were fitted to the other models alone."""
    names = sorted({profile.model.name for profile in profiles})
    errors: Errors = {}
    for name in names:
        others = [profile for profile in profiles if profile.model.name != name]
        if all(profile.model.is_moe for profile in others):
            raise InputError("", "--held-out", f"{card.name} has no other dense model than {name}")
        fitted = card.model_copy(update={"coefficients": fit(card, others)})
        errors |= error_table(fitted, [profile for profile in profiles if profile.model.name == name])
    return errors


def error_table(card: Hardware, profiles: Sequence[Profile]) -> Errors:
    """Median and 90th percentile of |predicted / measured - 1| for each profile and kind of measurement.

    ``block`` is the sum of the block's layers without attention, at every token count of the table.
    """
    errors: Errors = {}
    for profile in profiles:
        model = RooflineLatencyModel(card, profile.query(card.name))
        for kind, predicted, measured in _comparisons(card, model, profile):
            relative = np.abs(predicted / measured - 1)
            errors[f"{profile.key} {kind}"] = (float(np.median(relative)), float(np.quantile(relative, 0.9)))
    return errors


def _comparisons(
    card: Hardware, model: RooflineLatencyModel, profile: Profile
) -> list[tuple[str, Floats, Floats]]:
    """(kind, predicted, measured) of everything a profile has."""
    rows: list[tuple[str, Floats, Floats]] = []
    block = set(BLOCK_LAYERS) - {"attn"}
    groups = {"block": block, "embedding": {"embedding"}, "lm_head": {"lm_head"}}
    for kind, names in ({} if profile.model.is_moe else groups).items():
        measured = profile.block_ns(names)
        tokens = np.array(list(measured))
        predicted = sum(model.layer_ns(name, tokens) for name in names)
        rows.append((kind, np.asarray(predicted, dtype=np.float64), np.array(list(measured.values()))))
    coefficients = card.coefficients or Coefficients()
    for kind, (n, context, ns) in (
        ("prefill", profile.prefill_samples()),
        ("prompt", profile.prompt_samples()),
    ):
        if n.size:
            rows.append((kind, prefill_ns(card, profile, coefficients.prefill, n, context), ns))
    n, total, ns = profile.decode_samples()
    if n.size:
        rows.append(("decode", decode_ns(card, profile, coefficients.decode, n, total), ns))
    if GATE in profile.layers and profile.model.is_moe:
        tokens, ns = gate_samples(profile)
        rows.append(("gate", gate_ns(card, profile, coefficients.gemm, coefficients.router, tokens), ns))
    if profile.experts.size:
        rows.append(("moe", moe_ns(card, profile, coefficients.moe, profile.experts), profile.experts[:, 2]))
    if profile.mixed.size:
        rows.append(("mixed", mixed_ns(card, profile, coefficients, profile.mixed[:4]), profile.mixed[4]))
    return rows


def _attention(card: Hardware, profile: Profile, prefill: Prefill, decode: Decode) -> AttentionRoofline:
    both = Coefficients.model_construct(prefill=prefill, decode=decode)
    return AttentionRoofline(card, both, profile.query(card.name), card.memory.bandwidth_gbps)


def prefill_ns(card: Hardware, profile: Profile, c: Prefill, n: Floats, context: Floats) -> Floats:
    """Predicted time of measured chunks, fixed cost included."""
    attention = _attention(card, profile, c, Decode())
    return c.fixed_ns + attention.prefill_ns(n, context)


def decode_ns(
    card: Hardware, profile: Profile, c: Decode, n: Floats, total: Floats, longest: Floats | None = None
) -> Floats:
    """Predicted time of measured batches, in which all requests have the same KV length, or one at most ``longest``."""
    block_kv = n * np.ceil(total / n / c.block_tokens) * c.block_tokens
    fixed_ns = c.fixed_ns * np.where(n == 1, c.lone, 1.0)
    attention = _attention(card, profile, Prefill(), c)
    return fixed_ns + attention.decode_ns(n, block_kv, total / n if longest is None else longest)

"""Fit decode attention of a description to measured batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_profile.calibrate_check import decode_ns
from llm_profile.calibrate_values import rounded, within_limits
from llm_profile.hardware import Decode, DecodeSplits, Hardware
from llm_profile.least_squares import fit_positive, loss
from llm_profile.profiles import Profile
from llm_profile.table_csv import Floats

SAMPLES = 4000
"""Rows of a profile that a fit looks at."""
SPLIT_SAMPLES = 1000
"""The same of the slower formula of kernels that split keys."""
START = {
    "fixed_ns": 3e3,
    "head_ns": 5.0,
    "efficiency": 0.8,
    "cold": 0.1,
    "lone": 0.8,
    "stream_gbps": 15.0,
    "sharpness": 3.0,
}
STARTS = (START, {**START, "cold": 3.0})
SPLIT_START = {
    "fixed_ns": 5e3,
    "head_ns": 1.0,
    "efficiency": 0.9,
    "cold": 0.1,
    "stream_gbps": 15.0,
    "sharpness": 2.0,
    **DecodeSplits().model_dump(),
}
SKEWS = tuple(round(0.002 * step, 3) for step in range(101))
"""Tried one by one: keys in whole blocks make the time a staircase."""
EQUAL = 1.02
"""Ratio of two losses that tells nothing about which fit is right."""
BLOCK_TOKENS = (1, 16, 32, 64, 128)

Scored = tuple[float, Decode]


def fit_decode(card: Hardware, profiles: Sequence[Profile]) -> Decode:
    """Coefficients of decode attention; tries kernels that split keys where the card's kernels may.

    Of other kernels it tries block sizes, and K/V read once or for each query head. Models of one head ratio
    cannot tell how often K/V is read; then the efficiency nearer to 1 decides.
    """
    fits = [min(_whole_fits(card, profiles, packed), key=lambda fit: fit[0]) for packed in (True, False)]
    if card.shared_attention_kernel:
        fits.append(_split_fit(card, profiles))
    least = min(loss for loss, _ in fits)
    equal = [decode for loss, decode in fits if loss <= EQUAL * least]
    fitted = min(equal, key=lambda decode: abs(np.log(decode.efficiency)))
    return fitted.model_copy(update={"skew": _fit_skew(card, profiles, fitted)})


def _fit_skew(card: Hardware, profiles: Sequence[Profile], fitted: Decode) -> float:
    """What uneven batches take beyond what ``fitted`` says of them; 0 if none was measured."""
    measured = [profile for profile in profiles if profile.uneven.size]
    if not measured:
        return 0.0

    ratios = np.concatenate([profile.uneven[4] for profile in measured])

    def loss_of(skew: float) -> float:
        c = fitted.model_copy(update={"skew": skew})
        return loss(np.concatenate([uneven_ratio(card, profile, c) for profile in measured]), ratios)

    return min(SKEWS, key=loss_of)


def uneven_ratio(card: Hardware, profile: Profile, c: Decode) -> Floats:
    """Predicted time of the uneven batches of a profile over that of as many requests with their mean KV."""
    requests, long, short_kv, long_kv, _ = profile.uneven
    total = long * long_kv + (requests - long) * short_kv
    even_ns = decode_ns(card, profile, c, requests, requests * np.round(total / requests))
    added_kv = c.skew * (long_kv * requests - total)
    ratio: Floats = decode_ns(card, profile, c, requests, total + added_kv, long_kv) / even_ns
    return ratio


def _whole_fits(card: Hardware, profiles: Sequence[Profile], packed: bool) -> list[Scored]:
    """Every block size, with keys that are not split."""
    return [
        _fit(card, profiles, start, {"block_tokens": block_tokens, "gqa_packed": packed}, SAMPLES)
        for block_tokens in BLOCK_TOKENS
        for start in STARTS
    ]


def _split_fit(card: Hardware, profiles: Sequence[Profile]) -> Scored:
    """A kernel that splits keys reads K and V once for all query heads of a group."""
    return _fit(card, profiles, SPLIT_START, {"block_tokens": 1, "gqa_packed": True}, SPLIT_SAMPLES)


def _fit(
    card: Hardware,
    profiles: Sequence[Profile],
    start: dict[str, float],
    choice: dict[str, Any],
    most_samples: int,
) -> Scored:
    samples = [(p, _thinned(p.decode_samples(), most_samples)) for p in profiles]
    measured = np.concatenate([s[2] for _, s in samples])

    def predict(values: dict[str, Any]) -> Floats:
        c = _decode(values, choice)
        return np.concatenate([decode_ns(card, p, c, n, total) for p, (n, total, _) in samples])

    values, least = fit_positive(predict, measured, start)
    return least, _decode(rounded(values), choice)


def _decode(values: dict[str, Any], choice: dict[str, Any]) -> Decode:
    """Coefficients within their limits, those of splits in their own part."""
    kept = within_limits(values)
    names = DecodeSplits.model_fields.keys() & kept.keys()
    if not names:
        return Decode.model_construct(**kept, **choice)
    splits = DecodeSplits.model_construct(**{name: kept.pop(name) for name in sorted(names)})
    kept["efficiency"] = min(kept["efficiency"], 1.0)
    return Decode.model_construct(**kept, **choice, splits=splits)


def _thinned(samples: tuple[Floats, Floats, Floats], most: int) -> tuple[Floats, Floats, Floats]:
    keep = slice(None, None, max(1, samples[0].size // most))
    return samples[0][keep], samples[1][keep], samples[2][keep]

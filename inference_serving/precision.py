"""Names of number formats, as vLLM and the published system spell them, and their bits."""

from __future__ import annotations

_BITS = {
    "float32": 32,
    "fp32": 32,
    "float16": 16,
    "fp16": 16,
    "half": 16,
    "bfloat16": 16,
    "bf16": 16,
    "fp8": 8,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
}


def weight_bits_of(dtype: str, auto_bits: int) -> int:
    """Bits of a ``--dtype``; ``auto`` means ``auto_bits``. Raises ValueError for an unknown name."""
    return _bits(dtype, auto_bits)


def kv_bits_of(kv_cache_dtype: str, weight_bits: int) -> int:
    """Bits of a ``--kv-cache-dtype``; ``auto`` means those of the weights. Raises ValueError if unknown."""
    return _bits(kv_cache_dtype, weight_bits)


def _bits(name: str, auto_bits: int) -> int:
    if name == "auto":
        return auto_bits
    if name not in _BITS:
        raise ValueError(f"{name!r} is unknown; use auto or one of {', '.join(_BITS)}")
    return _BITS[name]

"""Names of number formats and their bits."""

from __future__ import annotations

import pytest

from inference_serving.precision import kv_bits_of, weight_bits_of

BITS = {
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


@pytest.mark.parametrize(("name", "bits"), BITS.items())
@pytest.mark.parametrize("bits_of", [weight_bits_of, kv_bits_of])
def test_a_name_has_its_bits_whatever_auto_would_mean(bits_of, name, bits):
    assert [bits_of(name, auto) for auto in (8, 16, 32)] == [bits] * 3


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("bits_of", [weight_bits_of, kv_bits_of])
def test_auto_means_what_it_is_told(bits_of, bits):
    assert bits_of("auto", bits) == bits


@pytest.mark.parametrize("bits_of", [weight_bits_of, kv_bits_of])
@pytest.mark.parametrize("name", ["int8", "FP16", "fp8 ", "", "float64"])
def test_an_unknown_name_is_refused_with_the_known_ones(bits_of, name):
    with pytest.raises(ValueError) as caught:
        bits_of(name, 16)
    assert str(caught.value) == f"{name!r} is unknown; use auto or one of {', '.join(BITS)}"

"""Sliding windows: what they cut off, and that FlashAttention 2 packs no query heads of models that have one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astra_sim.input_error import InputError
from llm_profile.attention_roofline import decodes_unpacked
from llm_profile.hardware import PROJECT_HARDWARE_DIR, load_hardware
from llm_profile.latency import LatencyModel, LatencyQuery, open_latency_model
from llm_profile.layers import kv_bytes_per_token
from llm_profile.model_config import PROJECT_MODEL_DIR, ModelConfig, load_model_config

PHI = load_model_config("microsoft/Phi-mini-MoE-instruct")
LLAMA = load_model_config("meta-llama/Llama-3.1-8B")  # the same heads, but no window
NONE = np.empty(0, dtype=np.int64)


def latency_of(card: str, model: ModelConfig, **flags: bool) -> LatencyModel:
    return open_latency_model(LatencyQuery(card, model, 1, **flags), "calibrated")


def decode_ns(latency: LatencyModel, requests: int, kv: int) -> int:
    return latency.attention_ns(NONE, NONE, np.full(requests, kv))


def test_only_one_kernel_and_grouped_heads_make_the_difference():
    cards = {name: load_hardware(PROJECT_HARDWARE_DIR / f"{name}.yaml") for name in ("A6000", "H100")}
    lone = ModelConfig.model_validate(PHI.model_dump() | {"num_key_value_heads": 32})
    assert decodes_unpacked(cards["A6000"], PHI)
    assert not decodes_unpacked(cards["A6000"], LLAMA)
    assert not decodes_unpacked(cards["A6000"], lone)
    assert not decodes_unpacked(cards["H100"], PHI)  # FlashAttention 3


def test_packing_does_not_apply_to_a_model_with_a_window():
    packed, profiled = (latency_of("A6000", PHI, packed_decode=flag) for flag in (True, False))
    assert packed.name == profiled.name == "calibrated:A6000"
    assert decode_ns(packed, 64, 512) == decode_ns(profiled, 64, 512)


def test_one_request_takes_what_the_tables_measured():
    """The published tables are of kernels that pack nothing; one request's KV is read by all heads together."""
    fitted, window = (latency_of("A6000", model) for model in (LLAMA, PHI))
    for kv in (64, 512, 2000):
        assert decode_ns(window, 1, kv) == decode_ns(fitted, 1, kv)


def test_many_requests_read_keys_and_values_once_for_each_of_four_heads():
    reads = 4 * 200 * 512 * kv_bytes_per_token(PHI, 1) / 768
    assert reads < decode_ns(latency_of("A6000", PHI), 200, 512) < 1.01 * reads


@pytest.mark.parametrize("card", ["RTX4090", "RTXPRO6000", "A100", "L40S"])
def test_cards_whose_decodes_were_measured_packed_run_them_like_those_beside_a_prefill(card):
    """The same kernel: one more request with a chunk of one token on as much KV takes about a request's share."""
    latency = latency_of(card, PHI)
    alone = decode_ns(latency, 64, 512)
    mixed = latency.attention_ns(np.array([1]), np.array([511]), np.full(63, 512))
    assert mixed == pytest.approx(alone, rel=0.25)
    assert alone > decode_ns(latency_of(card, LLAMA), 64, 512)


def test_no_request_reads_more_keys_than_the_window_has():
    latency = latency_of("A6000", PHI)
    assert decode_ns(latency, 8, 3000) == decode_ns(latency, 8, 2047) > decode_ns(latency, 8, 2000)
    chunks = [
        latency.attention_ns(np.array([100]), np.array([context]), NONE) for context in (1900, 2100, 3900)
    ]
    assert chunks[0] < chunks[1] == chunks[2]


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 4096}, None),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, None),
    ],
)
def test_windows_are_read_as_the_hugging_face_classes_do(tmp_path, changes, window):
    facts = json.loads((PROJECT_MODEL_DIR / "meta-llama" / "Llama-3.1-8B.json").read_text())
    file = tmp_path / "model.json"
    file.write_text(json.dumps(facts | changes))
    assert load_model_config(file).sliding_window == window


def test_windows_in_some_layers_are_refused(tmp_path):
    facts = json.loads((PROJECT_MODEL_DIR / "Qwen" / "Qwen3-32B.json").read_text())
    file = tmp_path / "model.json"
    file.write_text(json.dumps(facts | {"sliding_window": 4096, "use_sliding_window": True}))
    with pytest.raises(InputError, match="use_sliding_window = true: windows in some layers only are not"):
        load_model_config(file)

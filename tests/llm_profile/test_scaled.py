"""Latencies times a factor."""

import numpy as np
import pytest
from synthetic_tables import tokens

from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.model_config import load_model_config
from llm_profile.scaled import ScaledLatencyModel


def test_every_time_is_multiplied_and_every_source_stays():
    mixtral = load_model_config("mistralai/Mixtral-8x7B-v0.1")
    model = open_latency_model(LatencyQuery("CPU", mixtral, 1), "calibrated")
    scaled = ScaledLatencyModel(model, 1.5)
    batch = (tokens(64), tokens(100), tokens(500, 30))
    experts = tokens(3, 0, 7)
    assert scaled.name == "calibrated:CPU*1.5"
    assert scaled.step_overhead_ns == pytest.approx(1.5 * model.step_overhead_ns, abs=1)
    for layer in ("q_proj", "gate", "lm_head"):
        ns = scaled.layer_ns(layer, tokens(1, 2000))
        assert ns.dtype == np.int64
        assert ns.tolist() == pytest.approx((1.5 * model.layer_ns(layer, tokens(1, 2000))).tolist(), abs=1)
    assert scaled.attention_ns(*batch) == pytest.approx(1.5 * model.attention_ns(*batch), abs=1)
    assert scaled.moe_ns(experts) == pytest.approx(1.5 * model.moe_ns(experts), abs=1)
    assert scaled.attention_source(*batch) is model.attention_source(*batch)
    assert scaled.source("q_proj", 9999) is model.source("q_proj", 9999)
    assert scaled.moe_source(experts) is model.moe_source(experts)

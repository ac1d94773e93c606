"""The source ``silicon`` with the real package; skipped where it is not installed."""

import subprocess
import sys
import time

import pytest
from synthetic_tables import tokens

from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.layers import LAYERS
from llm_profile.silicon_systems import SYSTEMS

NONE = tokens()


@pytest.mark.parametrize("hardware", list(SYSTEMS))
def test_every_card_has_plausible_rows(real_package, llama, hardware):
    query = LatencyQuery(hardware, llama, 1)
    start = time.perf_counter()
    made = open_latency_model(query, "silicon")
    assert time.perf_counter() - start < 30
    start = time.perf_counter()
    model = open_latency_model(query, "silicon")
    assert time.perf_counter() - start < 0.3
    assert model.name == made.name
    for layer in LAYERS:
        if layer != "attn":
            one, many = model.layer_ns(layer, tokens(1, 4096))
            assert 1_000 < one < many < 100_000_000
    assert model.source("q_proj", 128) == Source.MEASURED
    assert model.source("lm_head", 128) == Source.EXTRAPOLATED
    short, long = (model.attention_ns(tokens(n), tokens(0), NONE) for n in (128, 8192))
    assert 5_000 < short < 50_000 < long < 5_000_000


def test_opening_from_the_cache_does_not_import_the_package(real_package, llama, tmp_path):
    open_latency_model(LatencyQuery("H100", llama, 1), "silicon")
    script = (
        "import sys; from llm_profile.latency import *; from llm_profile.model_config import load_model_config;"
        "query = LatencyQuery('H100', load_model_config('meta-llama/Llama-3.1-8B'), 1);"
        "print(open_latency_model(query, 'silicon').name, 'aiconfigurator_core' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("silicon:H100/")
    assert ran.stdout.endswith(" False\n")

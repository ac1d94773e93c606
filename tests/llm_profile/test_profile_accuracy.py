"""How close the sources come to published measurements; skipped where these are not at hand."""

import time

import numpy as np
import pytest
from synthetic_tables import tokens

from llm_profile.calibrate import error_table
from llm_profile.hardware import find_hardware, load_hardware
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.profiles import read_profiles

LIMITS = {"block": 0.08, "embedding": 0.08, "lm_head": 0.15, "prefill": 0.08, "prompt": 0.25, "decode": 0.08}
NONE = tokens()


@pytest.mark.parametrize("hardware", ["A6000", "H100"])
def test_descriptions_stay_close_to_the_tables(reference_profiles, hardware):
    errors = error_table(load_hardware(find_hardware(hardware)), read_profiles(reference_profiles, hardware))
    assert len(errors) >= 16
    for name, (median, _) in errors.items():
        assert median <= LIMITS[name.rsplit(" ", 1)[1]], name


def test_tables_open_fast_and_give_measured_rows_back(reference_profiles, llama):
    start = time.perf_counter()
    model = open_latency_model(LatencyQuery("A6000", llama, 1, profile_dir=reference_profiles), "tables")
    assert time.perf_counter() - start < 1.0  # 0.1 s on an idle core
    profile = next(
        p for p in read_profiles(reference_profiles, "A6000") if p.key.endswith("Llama-3.1-8B/tp1")
    )
    for n, context, ns in zip(*profile.prefill_samples(), strict=True):
        assert model.attention_ns(tokens(int(n)), tokens(int(context)), NONE) == pytest.approx(ns, abs=1)
    for n, total, ns in list(zip(*profile.decode_samples(), strict=True))[::97]:
        if total % n == 0:
            priced = model.attention_ns(NONE, NONE, np.full(int(n), int(total / n)))
            assert (
                priced >= ns - 1
            )  # more only where the longest request alone, or reading its KV, takes longer
            assert priced <= 1.25 * ns

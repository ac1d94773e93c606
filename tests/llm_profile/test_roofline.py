from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_tables import tokens
from test_hardware import DATASHEET

from astra_sim.input_error import InputError
from llm_profile.hardware import (
    Coefficients,
    Decode,
    Gemm,
    Hardware,
    Memory,
    PeakTflops,
    Prefill,
    find_hardware,
    known_hardware,
    load_hardware,
)
from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.layers import BLOCK_LAYERS, kv_bytes_per_token, layer_shape
from llm_profile.model_config import load_model_config
from llm_profile.roofline import RooflineLatencyModel

NONE = tokens()
LLAMA = load_model_config("meta-llama/Llama-3.1-8B")
IDEAL = Coefficients(
    gemm=Gemm(fixed_ns=0, memory_efficiency=1, compute_efficiency=1, wave=0, sharpness=16),
    prefill=Prefill(fixed_ns=0, efficiency=1, tail=0, tile_rows=1),
    decode=Decode(fixed_ns=0, head_ns=0, efficiency=1, stream_gbps=1e9, block_tokens=1, sharpness=16),
)
CARD = Hardware(
    name="IDEAL",
    source="none",
    memory=Memory(bandwidth_gbps=1000, size_gb=80),
    peak_tflops=PeakTflops(fp16=100, fp8=200, fp32=50),
    multiprocessors=1,
    coefficients=IDEAL,
)


def ideal(**options) -> RooflineLatencyModel:
    return RooflineLatencyModel(CARD, LatencyQuery("IDEAL", LLAMA, **{"tp_size": 1, **options}))


def one(model, layer: str, n: int) -> int:
    return int(model.layer_ns(layer, tokens(n))[0])


@pytest.mark.parametrize("tp_size", [1, 2, 8])
def test_one_token_takes_the_time_to_read_the_weights(tp_size):
    shape = layer_shape(LLAMA, "gate_proj", tp_size)
    assert one(ideal(tp_size=tp_size), "gate_proj", 1) == pytest.approx(
        2 * shape.weight_elements / 1000, rel=1e-3
    )


def test_many_tokens_take_the_time_of_their_flops():
    flops = layer_shape(LLAMA, "gate_proj", 1).flops_per_token * 100_000
    assert one(ideal(), "gate_proj", 100_000) == pytest.approx(flops / 100e3, rel=1e-3)


@pytest.mark.parametrize(("bits", "scale"), [(8, 0.5), (32, 2.0)])
def test_bits_scale_bytes_and_peak(bits, scale):
    for n in (1, 100_000):
        half = one(ideal(weight_bits=bits), "gate_proj", n)
        assert half == pytest.approx(scale * one(ideal(), "gate_proj", n), rel=0.03)


def test_bandwidth_of_the_cluster_config_replaces_the_datasheets():
    assert one(ideal(mem_bw_gbps=500), "gate_proj", 1) == pytest.approx(
        2 * one(ideal(), "gate_proj", 1), rel=1e-4
    )
    assert one(ideal(mem_bw_gbps=500), "gate_proj", 100_000) == pytest.approx(
        one(ideal(), "gate_proj", 100_000), rel=1e-3
    )


@pytest.mark.parametrize("kv_bits", [8, 16])
def test_decode_takes_the_time_to_read_the_kv(kv_bits):
    kv = tokens(100, 2000, 900)
    read_ns = 3000 * kv_bytes_per_token(LLAMA, 1, kv_bits) / 1000
    assert ideal(kv_bits=kv_bits).attention_ns(NONE, NONE, kv) == pytest.approx(read_ns, abs=1)


def test_prefill_takes_the_time_of_its_pairs_and_at_least_of_its_kv():
    pairs_ns = 4 * 32 * 128 * 1000 * (500 + 1000 / 2) / 100e3
    assert ideal().attention_ns(tokens(1000), tokens(500), NONE) == pytest.approx(pairs_ns, abs=1)
    floor_ns = 100_001 * kv_bytes_per_token(LLAMA, 1) / 1000
    assert ideal().attention_ns(tokens(1), tokens(100_000), NONE) == pytest.approx(floor_ns, abs=1)


def test_a_short_chunk_takes_as_long_as_one_tile_and_more_tiles_run_in_waves():
    card = CARD.model_copy(
        update={
            "multiprocessors": 64,
            "coefficients": IDEAL.model_copy(
                update={"prefill": Prefill(fixed_ns=0, efficiency=1, tail=0.5, crowding=1.5, tile_rows=64)}
            ),
        }
    )
    model = RooflineLatencyModel(card, LatencyQuery("IDEAL", LLAMA, 1))
    key_ns = 4 * 64 * 128 / (100e3 / 64)  # one tile against one key, on one of 64 multiprocessors
    for n in (1, 64, 128):  # 32 or 64 tiles: one wave
        assert model.attention_ns(tokens(n), tokens(8000), NONE) == pytest.approx(key_ns * (8000 + n), abs=1)
    two_waves = key_ns * ((8000 + 129 / 2) * 2.5 + 129 / 2)
    assert model.attention_ns(tokens(129), tokens(8000), NONE) == pytest.approx(two_waves, abs=1)


def test_fused_projections_are_one_kernel():
    gemm = IDEAL.gemm.model_copy(update={"fused_qkv": True, "fused_gate_up": True})
    card = CARD.model_copy(update={"coefficients": IDEAL.model_copy(update={"gemm": gemm})})
    model = RooflineLatencyModel(card, LatencyQuery("IDEAL", LLAMA, 1))
    assert [one(model, layer, 1) for layer in ("k_proj", "v_proj", "up_proj")] == [0, 0, 0]
    assert one(model, "q_proj", 1) == pytest.approx(2 * 4096 * 6144 / 1000, rel=1e-3)
    assert one(model, "gate_proj", 1) == pytest.approx(2 * 4096 * 2 * 14336 / 1000, rel=1e-3)


def test_prefills_are_priced_one_by_one():
    both = ideal().attention_ns(tokens(1000, 1000), tokens(64_000, 0), NONE)
    apart = [ideal().attention_ns(tokens(1000), tokens(c), NONE) for c in (64_000, 0)]
    assert both == pytest.approx(sum(apart), abs=2)
    assert both < 0.7 * ideal().attention_ns(tokens(2000), tokens(64_000), NONE)


@pytest.mark.parametrize("hardware", known_hardware())
def test_parts_of_a_batch_share_one_fixed_cost(hardware):
    card = load_hardware(find_hardware(hardware)).model_copy(update={"shared_attention_kernel": False})
    model = RooflineLatencyModel(card, LatencyQuery(hardware, LLAMA, 1))
    prefill = model.attention_ns(tokens(512), tokens(0), NONE)
    decode = model.attention_ns(NONE, NONE, tokens(700, 30))
    mixed = model.attention_ns(tokens(512), tokens(0), tokens(700, 30))
    assert max(prefill, decode) < mixed <= prefill + decode + 1
    assert model.attention_ns(NONE, NONE, NONE) == 0


CALIBRATED = {
    name: open_latency_model(LatencyQuery(name, LLAMA, 1), "calibrated") for name in known_hardware()
}


@given(
    st.sampled_from(sorted(CALIBRATED)),
    st.sampled_from([layer for layer in BLOCK_LAYERS if layer != "attn"]),
    st.lists(st.integers(1, 100_000), min_size=2, max_size=8),
)
def test_time_never_falls_with_tokens(hardware, layer, counts):
    ns = CALIBRATED[hardware].layer_ns(layer, np.sort(np.array(counts)))
    assert (np.diff(ns) >= 0).all()


@given(
    st.sampled_from(sorted(CALIBRATED)), st.lists(st.integers(1, 50_000), min_size=1, max_size=64), st.data()
)
def test_time_never_falls_with_kv_context_or_requests(hardware, kv, data):
    model = CALIBRATED[hardware]
    longer = [length + data.draw(st.integers(0, 500)) for length in kv]
    before = model.attention_ns(tokens(64), tokens(kv[0]), tokens(*kv))
    assert model.attention_ns(tokens(64), tokens(longer[0]), tokens(*longer)) >= before
    assert model.attention_ns(tokens(64), tokens(kv[0]), tokens(*kv, 1)) >= before
    assert model.attention_ns(tokens(65), tokens(kv[0]), tokens(*kv)) >= before


def test_a_datasheet_alone_gives_estimates(tmp_path, monkeypatch):
    folder = tmp_path / "llm_profile" / "hardware"
    folder.mkdir(parents=True)
    (folder / "CARD.yaml").write_text(DATASHEET)
    monkeypatch.chdir(tmp_path)
    model = open_latency_model(LatencyQuery("CARD", LLAMA, 1))
    assert model.name == "estimated:CARD"
    assert model.source("q_proj", 10) == Source.ESTIMATED
    assert one(model, "gate_proj", 1) > 2 * 4096 * 14336 / 1000


def test_an_uneven_decode_batch_costs_part_of_the_way_to_all_at_the_longest():
    decode = IDEAL.decode.model_copy(update={"skew": 0.25})
    card = CARD.model_copy(update={"coefficients": IDEAL.model_copy(update={"decode": decode})})
    model = RooflineLatencyModel(card, LatencyQuery("IDEAL", LLAMA, 1))
    even, uneven = tokens(2000, 2000, 2000), tokens(1000, 2000, 3000)
    longest = model.attention_ns(NONE, NONE, tokens(3000, 3000, 3000))
    mean = model.attention_ns(NONE, NONE, even)
    assert mean == ideal().attention_ns(NONE, NONE, even)
    assert model.attention_ns(NONE, NONE, uneven) == pytest.approx(mean + 0.25 * (longest - mean), rel=1e-3)


def test_attention_of_a_card_without_measured_decodes_is_estimated():
    model = open_latency_model(LatencyQuery("RTX3090", LLAMA, 1))
    assert model.name == "calibrated:RTX3090"
    assert model.source("q_proj", 10) is Source.INTERPOLATED
    assert model.attention_source(NONE, NONE, np.array([10])) is Source.ESTIMATED


def test_calibrated_numbers_say_whether_they_are_inside_the_fit():
    model = CALIBRATED["A6000"]
    assert [model.source("q_proj", n) for n in (2048, 2049)] == [Source.INTERPOLATED, Source.EXTRAPOLATED]


def test_expert_layers_and_odd_precisions_are_refused():
    mixtral = load_model_config("mistralai/Mixtral-8x7B-v0.1")
    model = open_latency_model(LatencyQuery("H100", mixtral, 4), "calibrated")
    assert one(model, "q_proj", 1) > 0
    with pytest.raises(InputError, match="gate_proj: not a dense layer of this model"):
        one(model, "gate_proj", 1)
    with pytest.raises(InputError, match="weight_bits: 4: must be one of 8, 16, 32"):
        open_latency_model(LatencyQuery("H100", LLAMA, 1, weight_bits=4), "calibrated")
    with pytest.raises(InputError, match="mem_bw: -1: must be positive"):
        open_latency_model(LatencyQuery("H100", LLAMA, 1, mem_bw_gbps=-1), "calibrated")


def test_packed_decode_replaces_kernels_that_read_kv_once_for_each_query_head():
    """Llama-3.1-8B has four query heads to a K/V head; packed, a long decode is bound by reading the KV once."""
    profiled = LatencyQuery(hardware="A6000", model=load_model_config("meta-llama/Llama-3.1-8B"), tp_size=1)
    packed = replace(profiled, packed_decode=True)
    kv = np.array([100_000])
    times = [
        open_latency_model(query, "calibrated").attention_ns(NONE, NONE, kv) for query in (profiled, packed)
    ]
    read_ns = 100_000 * kv_bytes_per_token(profiled.model, 1) / 768
    assert times[1] == pytest.approx(read_ns / 0.85, rel=0.05)
    assert times[0] > 2 * times[1]


def test_packed_decode_is_named_and_counts_as_estimated():
    query = LatencyQuery("A6000", load_model_config("meta-llama/Llama-3.1-8B"), 1, packed_decode=True)
    latency = open_latency_model(query, "calibrated")
    assert latency.name == "calibrated:A6000:packed"
    assert latency.attention_source(NONE, NONE, np.array([1000])) is Source.ESTIMATED
    assert latency.source("q_proj", 128) is Source.INTERPOLATED


def test_packed_decode_changes_nothing_where_the_tables_were_packed():
    model = load_model_config("meta-llama/Llama-3.1-8B")
    names = [
        open_latency_model(LatencyQuery("RTXPRO6000", model, 1, packed_decode=packed), "calibrated").name
        for packed in (False, True)
    ]
    assert names == ["calibrated:RTXPRO6000"] * 2


def test_beginning_and_ending_a_tile_costs_part_of_the_dimension_that_it_sums_over():
    gemm = IDEAL.gemm.model_copy(update={"ramp": 512.0})
    card = CARD.model_copy(update={"coefficients": IDEAL.model_copy(update={"gemm": gemm})})
    model = RooflineLatencyModel(card, LatencyQuery("IDEAL", LLAMA, 1))
    for layer, inputs in (("gate_proj", 4096), ("down_proj", 14336)):
        plain = one(ideal(), layer, 100_000)
        assert one(model, layer, 100_000) == pytest.approx(plain * (1 + 512 / inputs), rel=1e-3)


def test_a_kernel_of_250_us_has_half_of_what_the_clock_falls_under_load():
    gemm = IDEAL.gemm.model_copy(update={"throttle": 0.2})
    card = CARD.model_copy(update={"coefficients": IDEAL.model_copy(update={"gemm": gemm})})
    model = RooflineLatencyModel(card, LatencyQuery("IDEAL", LLAMA, 1, mem_bw_gbps=1e6))
    flops = layer_shape(LLAMA, "q_proj", 1).flops_per_token
    half, long = (round(ns * 100e3 / flops) for ns in (250_000, 250_000_000))
    assert one(model, "q_proj", half) == pytest.approx(250_000 * 1.1, rel=2e-3)
    assert one(model, "q_proj", long) == pytest.approx(250_000_000 * 1.2, rel=2e-3)

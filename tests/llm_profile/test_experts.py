"""Time of one rank's experts by the tokens that each got, from every source."""

import numpy as np
import pytest
from synthetic_bundles import DENSE, write_bundle, write_csv
from synthetic_tables import layer_ns, tokens, write_attention, write_layers

from astra_sim.input_error import InputError
from llm_profile.hardware import find_hardware, load_hardware
from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.layers import EXPERT_LAYERS, GATE, LAYERS, MLP_LAYERS, expert_shapes, layer_shape
from llm_profile.model_config import load_model_config
from llm_profile.roofline_formulas import BOOST_NS, pnorm

PHI = load_model_config("microsoft/Phi-mini-MoE-instruct")
QWEN = load_model_config("Qwen/Qwen3-30B-A3B-Instruct-2507")
MIXTRAL = load_model_config("mistralai/Mixtral-8x7B-v0.1")
TABLE_LAYERS = tuple(
    dict.fromkeys((*(layer for layer in LAYERS if layer not in MLP_LAYERS), GATE, *EXPERT_LAYERS))
)
QWEN_DENSE = tuple(layer for layer in DENSE if layer not in ("gate_up_proj", "act_fn", "down_proj"))
BATCHES = [(t, e) for t in (1, 2, 16, 64) for e in (8, 16, 128) if e <= 8 * t]


def moe_us(batch: int, experts: int) -> float:
    """Weights of an expert in 6 us, and an assignment in 50 ns."""
    return 10 + 6 * experts + 8 * batch / 20


def tables(folder, layers=TABLE_LAYERS, **options):
    tp1 = folder / "CARD" / PHI.name / "tp1"
    write_layers(tp1, layers)
    write_attention(tp1)
    return open_latency_model(LatencyQuery("CARD", PHI, 1, profile_dir=folder, **options), "tables")


def bundle(folder, tp_size=1, **options):
    for ranks in {1, tp_size}:
        made = write_bundle(folder / "CARD" / QWEN.name / "bf16" / f"tp{ranks}", (*QWEN_DENSE, "qkv_proj"))
        dense = [(layer, n, 5.0) for layer in (*QWEN_DENSE, "qk_norm") for n in (1, 64)]
        write_csv(made / "dense.csv", "layer,tokens,time_us", dense)
    file = folder / "CARD" / QWEN.name / "bf16" / "tp1" / "moe.csv"
    write_csv(file, "tokens,activated_experts,time_us", [(t, e, moe_us(t, e)) for t, e in BATCHES])
    query = LatencyQuery("CARD", QWEN, tp_size, profile_dir=folder, **options)
    return open_latency_model(query, "bundle")


def spread(assignments: int, experts: int, of: int) -> np.ndarray:
    """``assignments`` evenly over ``experts`` of a rank's ``of``."""
    counts = np.zeros(of, dtype=np.int64)
    counts[:experts] = assignments // experts
    counts[: assignments % experts] += 1
    return counts


def calibrated(hardware="A6000", model=PHI, **options):
    return open_latency_model(LatencyQuery(hardware, model, 1, **options), "calibrated")


@pytest.mark.parametrize("opened", [tables, bundle, lambda _: calibrated()])
def test_experts_without_tokens_cost_nothing(tmp_path, opened):
    model = opened(tmp_path)
    assert model.moe_ns(np.zeros(16, dtype=np.int64)) == 0
    assert model.moe_ns(tokens()) == 0
    assert model.moe_ns(tokens(0, 5, 0, 0)) == model.moe_ns(tokens(5))
    assert isinstance(model.moe_ns(tokens(5)), int)


def test_experts_of_tables_run_one_after_the_other(tmp_path):
    model = tables(tmp_path)
    index = [TABLE_LAYERS.index(layer) for layer in EXPERT_LAYERS]
    one = [sum(layer_ns(i, n) for i in index) for n in (7, 30)]
    assert model.moe_ns(tokens(7)) == one[0]
    assert model.moe_ns(tokens(7, 0, 30)) == sum(one)
    assert model.moe_ns(np.full(16, 7)) == 16 * one[0]
    assert model.layer_ns(GATE, tokens(7)).tolist() == [layer_ns(TABLE_LAYERS.index(GATE), 7)]


def test_tables_say_how_they_know_an_expert(tmp_path):
    model = tables(tmp_path)  # measured at 1, 4, 7, ... 64
    asked = (tokens(7, 64, 0), tokens(7, 8), tokens(7, 65))
    assert [model.moe_source(counts) for counts in asked] == [
        Source.MEASURED,
        Source.INTERPOLATED,
        Source.EXTRAPOLATED,
    ]


def test_tables_have_whole_experts_only(tmp_path):
    split = tables(tmp_path, expert_tp_size=2)
    with pytest.raises(InputError, match="experts: were measured whole, not split over 2 ranks"):
        split.moe_ns(tokens(7))
    without = tables(tmp_path, tuple(layer for layer in TABLE_LAYERS if layer != "expert.w3"))
    with pytest.raises(InputError, match=r"experts: no rows for expert\.w3"):
        without.moe_ns(tokens(7))


def test_auto_takes_the_next_source_where_tables_have_no_experts_split_over_ranks(tmp_path, caplog):
    tables(tmp_path)
    (tmp_path / "CARD").rename(tmp_path / "A6000")
    query = LatencyQuery("A6000", PHI, 1, profile_dir=tmp_path, expert_tp_size=2)
    assert open_latency_model(query).name == "calibrated:A6000"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"latencies from calibrated:A6000, because tables:A6000/{PHI.name}/tp1: "
        "experts: were measured whole, not split over 2 ranks"
    )


@pytest.mark.parametrize(("batch", "experts"), BATCHES)
def test_a_bundle_gives_its_batches_back(tmp_path, batch, experts):
    model = bundle(tmp_path)
    counts = spread(8 * batch, experts, 128)
    assert model.moe_ns(counts) == round(1000 * moe_us(batch, experts))
    assert model.moe_source(counts) is Source.MEASURED


def test_a_bundle_is_linear_between_and_beyond_its_batches(tmp_path):
    model = bundle(tmp_path)
    for batch, experts in ((40, 16), (16, 72), (300, 128)):
        assert model.moe_ns(spread(8 * batch, experts, 128)) == round(1000 * moe_us(batch, experts))
    assert model.moe_source(spread(8 * 40, 16, 128)) is Source.INTERPOLATED
    assert model.moe_source(spread(8 * 300, 128, 128)) is Source.EXTRAPOLATED


def test_fewer_experts_than_a_bundle_has_cost_their_share(tmp_path):
    """Two experts with 8 tokens each: a quarter of eight such experts, which are a batch of 8 tokens."""
    model = bundle(tmp_path)
    assert model.moe_ns(tokens(8, 8)) == round(1000 * moe_us(8, 8) / 4)
    assert model.moe_source(tokens(8, 8)) is Source.EXTRAPOLATED


def test_whole_experts_of_a_bundle_are_those_of_one_rank(tmp_path):
    counts = spread(64, 32, 64)
    assert bundle(tmp_path, 2).moe_ns(counts) == bundle(tmp_path).moe_ns(counts)
    split = bundle(tmp_path, 2, expert_tp_size=2)
    with pytest.raises(InputError, match=r"experts: no .*/tp2/moe\.csv"):
        split.moe_ns(counts)
    assert bundle(tmp_path).layer_ns(GATE, tokens(5)).tolist() == [0]  # measured with the experts


def test_experts_of_a_description_are_a_launch_and_a_sum():
    card = load_hardware(find_hardware("RTXPRO6000"))
    c = card.coefficients.moe
    model = calibrated("RTXPRO6000", QWEN)
    one = model.moe_ns(tokens(5))
    assert model.moe_ns(tokens(5, 0, 5)) == pytest.approx(2 * one - c.fixed_ns, abs=2)
    assert model.moe_ns(np.full(128, 5)) == pytest.approx(128 * (one - c.fixed_ns) + c.fixed_ns, abs=128)
    weights = (
        2 * 3 * QWEN.hidden_size * QWEN.moe_intermediate_size
    )  # bytes; one token moves and computes little
    read = weights / (card.memory.bandwidth_gbps * c.memory_efficiency)
    assert model.moe_ns(tokens(1)) == pytest.approx(c.fixed_ns + c.expert_ns + read, rel=0.01)


def test_many_tokens_of_an_expert_are_bound_by_compute():
    card = load_hardware(find_hardware("RTXPRO6000"))
    c = card.coefficients.moe
    flops = 2 * 3 * QWEN.hidden_size * QWEN.moe_intermediate_size * 65536
    compute = flops / (card.peak_tflops.fp16 * 1e3 * c.compute_efficiency)
    assert calibrated("RTXPRO6000", QWEN).moe_ns(tokens(65536)) == pytest.approx(compute, rel=0.05)


def test_columns_of_an_expert_can_be_split_over_ranks():
    whole, halves = (calibrated("RTXPRO6000", QWEN, expert_tp_size=n).moe_ns(np.full(128, 1)) for n in (1, 2))
    fixed = load_hardware(find_hardware("RTXPRO6000")).coefficients.moe.fixed_ns
    assert halves - fixed == pytest.approx((whole - fixed) / 2, rel=0.01)
    with pytest.raises(InputError, match="expert_tp_size: 5: cannot split moe_intermediate_size 768 evenly"):
        calibrated("RTXPRO6000", QWEN, expert_tp_size=5).moe_ns(tokens(1))


def test_experts_are_estimated_where_none_were_fitted():
    assert calibrated("A6000").moe_source(tokens(2048)) is Source.INTERPOLATED
    assert calibrated("A6000").moe_source(tokens(1, 2049)) is Source.EXTRAPOLATED
    assert calibrated("A100", MIXTRAL).moe_source(tokens(1)) is Source.ESTIMATED


def test_a_router_is_its_matrix_and_the_choice_of_experts():
    card = load_hardware(find_hardware("H100"))
    c = card.coefficients
    shape = layer_shape(MIXTRAL, GATE, 4)
    assert (shape.weight_elements, shape.output_width) == (4096 * 8, 8)  # whole on every rank
    read = (2 * shape.weight_elements + 2 * 4104) / (3350 * c.gemm.memory_efficiency)
    filled = 1 + c.gemm.wave * card.multiprocessors * 128**2 / 8
    compute = shape.flops_per_token * filled / (card.peak_tflops.fp16 * 1e3 * c.gemm.compute_efficiency)
    compute *= 1 + c.gemm.throttle * compute / (compute + BOOST_NS)
    matrix = c.gemm.fixed_ns + float(pnorm(np.array(read), np.array(compute), c.gemm.sharpness))
    expected = round(matrix + c.router.fixed_ns + c.router.token_ns)
    assert calibrated("H100", MIXTRAL).layer_ns(GATE, tokens(1)).tolist() == [expected]
    assert calibrated("RTXPRO6000", QWEN).layer_ns(GATE, tokens(1, 99)).tolist() == [0, 0]


def test_dense_models_have_no_experts(llama):
    with pytest.raises(InputError, match="experts: this is a dense model"):
        calibrated("A6000", llama).moe_ns(tokens(1))
    with pytest.raises(InputError, match="num_experts: this is not a mixture-of-experts model"):
        expert_shapes(llama)


@pytest.mark.parametrize("name", [PHI.name, MIXTRAL.name, QWEN.name])
def test_shapes_of_an_expert(name):
    model = load_model_config(name)
    w1, w3, act, w2 = expert_shapes(model).values()
    width = model.moe_intermediate_size
    assert (
        (w1.input_width, w1.output_width) == (w3.input_width, w3.output_width) == (model.hidden_size, width)
    )
    assert (act.weight_elements, act.input_width, act.output_width) == (0, 2 * width, width)
    assert (w2.input_width, w2.output_width) == (width, model.hidden_size)
    assert w1.weight_elements == w2.weight_elements == model.hidden_size * width


@pytest.mark.parametrize(
    ("hardware", "model", "median", "p90"),
    [("A6000", PHI, 0.08, 0.3), ("H100", MIXTRAL, 0.015, 0.035), ("RTX3090", PHI, 0.1, 0.26)],
)
def test_descriptions_agree_with_the_published_experts(reference_profiles, hardware, model, median, p90):
    """The errors that the YAML states, over every token count of one expert."""
    fit = load_hardware(find_hardware(hardware)).fit
    stated = fit.errors[f"{model.name}/tp1 moe"]
    assert (stated.median <= median, stated.p90 <= p90) == (True, True)
    described = calibrated(hardware, model)
    file = reference_profiles / hardware / model.name / "tp1" / "layers.csv"
    ns: dict[int, float] = {}
    for row in file.read_text().splitlines()[1:]:
        layer, n, _, _, time = row.split(",")
        if layer in EXPERT_LAYERS:
            ns[int(n)] = ns.get(int(n), 0.0) + float(time)
    off = np.array([abs(described.moe_ns(tokens(n)) / t - 1) for n, t in ns.items()])
    assert (np.median(off), np.quantile(off, 0.9)) == pytest.approx((stated.median, stated.p90), abs=0.002)


def test_bundles_and_their_description_agree_with_the_published_moe(reference_bundles):
    measured = open_latency_model(
        LatencyQuery("RTXPRO6000", QWEN, 2, profile_dir=reference_bundles), "bundle"
    )
    assert measured.moe_ns(spread(8 * 64, 128, 128)) == 827_810
    described = calibrated("RTXPRO6000", QWEN)
    for batch, experts in ((1, 8), (16, 128), (512, 64), (2048, 128)):
        counts = spread(8 * batch, experts, 128)
        if experts > 8:  # the weights of eight came from the cache
            assert described.moe_ns(counts) == pytest.approx(measured.moe_ns(counts), rel=0.06)
        else:
            assert described.moe_ns(counts) > measured.moe_ns(counts)

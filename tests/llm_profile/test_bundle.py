import numpy as np
import pytest
from synthetic_bundles import (
    DENSE,
    TOKENS,
    dense_us,
    lm_head_us,
    sampler_us,
    write_bundle,
    write_csv,
)
from synthetic_tables import tokens, write_attention, write_layers

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.layers import BLOCK_LAYERS
from llm_profile.model_config import load_model_config

META = """hardware: CARD
model: meta-llama/Llama-3.1-8B
variant: bf16
tp_degrees: [1, 2]
engine_effective:
  hf_overrides: {num_attention_heads: 16, num_key_value_heads: 4}
"""


def open_bundle(model, bundle, **options):
    query = LatencyQuery("CARD", model, 1, profile_dir=bundle.parents[4], **options)
    return open_latency_model(query, "bundle")


def block_ns(model, n: int) -> int:
    return sum(int(model.layer_ns(layer, tokens(n))[0]) for layer in BLOCK_LAYERS if layer != "attn")


@pytest.mark.parametrize("n", [1, 2, 9, 16, 37, 64])
def test_a_block_takes_exactly_the_measured_time(llama, bundle, n):
    model = open_bundle(llama, bundle)
    measured = [layer for layer in DENSE if layer not in ("embedding", "final_layernorm")]
    whole = sum(dense_us(layer, n) * (2 if layer == "layernorm" else 1) for layer in measured)
    assert block_ns(model, n) == round(whole * 1000)
    for layer in ("embedding", "final_layernorm"):
        assert model.layer_ns(layer, tokens(n)).tolist() == [round(dense_us(layer, n) * 1000)]


def test_fused_layers_are_split_by_output_width_to_the_nanosecond(llama, bundle):
    write_csv(
        bundle / "dense.csv",
        "layer,tokens,time_us",
        [(layer, n, 1.001 if layer == "qkv_proj" else 2.407) for layer in DENSE for n in TOKENS],
    )
    model = open_bundle(llama, bundle)
    one = tokens(1)
    # 1001 ns over 4096, 1024 and 1024 columns: 667.33, 166.83, 166.83
    assert [int(model.layer_ns(f"{x}_proj", one)[0]) for x in "qkv"] == [667, 167, 167]
    assert [int(model.layer_ns(f"{x}_proj", one)[0]) for x in ("gate", "up")] == [1204, 1203]
    assert block_ns(model, 1) == 1001 + 7 * 2407


def test_the_lm_head_samples_too_and_counts_sequences(llama, bundle):
    model = open_bundle(llama, bundle)
    for n in (1, 8, 20, 32):
        ns = round((lm_head_us(n) + sampler_us(n)) * 1000)
        assert model.layer_ns("lm_head", tokens(n)).tolist() == [ns]
    file = bundle / "per_sequence.csv"
    file.write_text("".join(line for line in file.open() if not line.startswith("sampler")))
    assert open_bundle(llama, bundle).layer_ns("lm_head", tokens(8)).tolist() == [716_000]


def test_the_norms_of_qwen3_are_in_q_proj_and_k_proj(tmp_path):
    qwen = load_model_config("Qwen/Qwen3-32B")
    folder = tmp_path / "CARD" / qwen.name / "bf16" / "tp1"
    write_bundle(folder)
    with (folder / "dense.csv").open("a") as stream:
        stream.writelines(f"qk_norm,{n},9\n" for n in TOKENS)
    query = LatencyQuery("CARD", qwen, 1, profile_dir=tmp_path)
    fused = round(dense_us("qkv_proj", 16) * 1000)
    model = open_latency_model(query, "bundle")
    assert sum(int(model.layer_ns(f"{x}_proj", tokens(16))[0]) for x in "qkv") == fused + 9000
    # 64 and 8 heads of 128: the query heads have 8/9 of the norms
    share = round(fused * 64 / 80)
    assert model.layer_ns("q_proj", tokens(16)).tolist() == [share + 8000]


def test_provenance_is_that_of_the_least_certain_part(llama, bundle):
    model = open_bundle(llama, bundle)
    assert [model.source("q_proj", n) for n in (16, 17, 65)] == [
        Source.MEASURED,
        Source.INTERPOLATED,
        Source.EXTRAPOLATED,
    ]
    assert model.source("lm_head", 8) is Source.MEASURED
    assert model.source("lm_head", 33) is Source.EXTRAPOLATED


def test_variants_are_chosen_by_bits(llama, bundle):
    fp8 = write_bundle(bundle.parent.parent / "fp8" / "tp1")
    (fp8 / "dense.csv").write_text(
        "layer,tokens,time_us\n" + "".join(f"{layer},{n},3\n" for layer in DENSE for n in TOKENS)
    )
    name = "bundle:CARD/meta-llama/Llama-3.1-8B"
    assert open_bundle(llama, bundle).name == f"{name}/bf16/tp1"
    eight = open_bundle(llama, bundle, weight_bits=8)  # KV stays in the activations' 16 bits
    assert eight.name == f"{name}/fp8/tp1"
    assert eight.layer_ns("o_proj", tokens(5)).tolist() == [3000]
    with pytest.raises(InputError, match="fp8 has 16-bit KV, not 8-bit"):
        open_bundle(llama, bundle, weight_bits=8, kv_bits=8)
    fp8.parent.rename(fp8.parent.with_name("fp8-kvfp8"))
    assert open_bundle(llama, bundle, weight_bits=8, kv_bits=8).name == f"{name}/fp8-kvfp8/tp1"
    with pytest.raises(InputError, match="of 32 bits; bf16 is not 32-bit; fp8-kvfp8 is not 32-bit"):
        open_bundle(llama, bundle, weight_bits=32)


def test_tables_go_first_then_bundles_then_descriptions(llama, bundle):
    root = bundle.parents[4]
    query = LatencyQuery("CARD", llama, 1, profile_dir=root)
    assert open_latency_model(query).name.startswith("bundle:")
    tables = root / "CARD" / llama.name / "tp1"
    write_layers(tables)
    write_attention(tables)
    assert open_latency_model(query).name.startswith("tables:")


def test_meta_gives_the_host_time_of_a_step_and_must_fit_its_folder(llama, bundle):
    assert open_bundle(llama, bundle).step_overhead_ns == 0
    file = bundle.parent / "meta.yaml"
    file.write_text(META + "step_overhead_us: 450.5\n")
    assert open_bundle(llama, bundle).step_overhead_ns == 450_500
    for old, new, message in [
        ("CARD", "OTHER", "meta.yaml: hardware: 'OTHER', but this is the folder of 'CARD'"),
        ("bf16", "fp8", "meta.yaml: variant: 'fp8', but this is the folder of 'bf16'"),
        ("[1, 2]", "[2, 4]", "meta.yaml: tp_degrees: 2, 4: does not have 1, but "),
        ("heads: 16", "heads: 20", r"hf_overrides: \(num_attention_heads, num_key_value_heads\) \(20, 4\): "),
        ("{num", "{num: [", "meta.yaml: line [0-9]+: not valid YAML"),
    ]:
        file.write_text(META.replace(old, new))
        with pytest.raises(InputError, match=message):
            open_bundle(llama, bundle)


def test_another_bandwidth_is_another_card(llama, tmp_path):
    write_bundle(tmp_path / "A6000" / llama.name / "bf16" / "tp1")
    query = LatencyQuery("A6000", llama, 1, profile_dir=tmp_path, mem_bw_gbps=1000)
    with pytest.raises(InputError, match="1000 GB/s: this bundle was measured on a card with 768 GB/s"):
        open_latency_model(query, "bundle")


def test_layer_times_are_vectorised(llama, bundle):
    model = open_bundle(llama, bundle)
    counts = np.arange(1, 200).reshape(-1, 1)
    table = model.layer_ns("down_proj", counts)
    assert table.shape == (199, 1)
    assert table.dtype == "int64"

"""The source ``silicon``, with a stand-in for its package."""

import sys

import fake_aiconfigurator as fake
import numpy as np
import pytest
from fake_aiconfigurator import MODEL, QUERY
from synthetic_tables import tokens

from astra_sim.input_error import InputError
from llm_profile import silicon_table
from llm_profile.latency import LatencyModel, LatencyQuery, Source, open_latency_model
from llm_profile.layers import LAYERS
from llm_profile.silicon_systems import SYSTEMS

NONE = tokens()
INSTALL = "aiconfigurator-core is not installed; install it with ./compile.sh --with silicon"


def silicon(**changes):
    return open_latency_model(LatencyQuery(**{**vars(QUERY), **changes}), "silicon")


def remove(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("aiconfigurator_core")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(silicon_table, "installed_version", lambda: None)


def test_it_answers_the_protocol_and_says_what_was_measured(fake_package):
    model = silicon()
    assert isinstance(model, LatencyModel)
    assert model.name == "silicon:H100/four-heads/tp1 (vllm 0.99, aiconfigurator-core 9.8.7)"
    assert model.step_overhead_ns == 0
    for layer in LAYERS:
        if layer != "attn":
            assert (model.layer_ns(layer, tokens(1, 10)) > 0).all()
    assert fake_package.opened == ["h100_sxm"]


def test_layers_of_a_fused_kernel_share_its_time_by_width(fake_package):
    model = silicon()
    qkv_ns = fake.gemm_ns(16, 512, 256)
    shares = [int(model.layer_ns(layer, tokens(16))[0]) for layer in ("q_proj", "k_proj", "v_proj")]
    assert shares == [round(qkv_ns / 2), round(qkv_ns / 4), round(qkv_ns / 4)]
    gate_ns = model.layer_ns("gate_proj", tokens(16))
    assert gate_ns == model.layer_ns("up_proj", tokens(16)) == round(fake.gemm_ns(16, 1024, 256) / 2)


def test_time_between_measured_token_counts_is_a_straight_line(fake_package):
    ns = silicon().layer_ns("o_proj", tokens(16, 40, 64))
    assert ns.tolist() == [round(fake.gemm_ns(n, 256, 256)) for n in (16, 40, 64)]


@pytest.mark.parametrize(
    ("layer", "count", "source"),
    [
        ("q_proj", 16, Source.MEASURED),
        ("q_proj", 17, Source.INTERPOLATED),
        ("q_proj", 257, Source.EXTRAPOLATED),
        ("down_proj", 16, Source.INTERPOLATED),
        ("down_proj", 257, Source.EXTRAPOLATED),
        ("lm_head", 16, Source.EXTRAPOLATED),
        ("rope", 16, Source.ESTIMATED),
        ("input_layernorm", 16, Source.ESTIMATED),
    ],
)
def test_every_number_says_how_it_came_about(fake_package, layer, count, source):
    assert silicon().source(layer, count) == source


def test_measured_prompts_and_decodes_come_back_without_the_package_formulas(fake_package):
    model = silicon()
    assert model.attention_ns(tokens(128), tokens(0), NONE) == round(fake.prompt_ns(128))
    assert model.attention_ns(NONE, NONE, np.full(8, 128)) == round(fake.decode_ns(8, 128))
    assert model.attention_ns(NONE, NONE, NONE) == 0


def test_attention_between_measured_head_counts_is_a_straight_line(fake_package):
    six = MODEL.model_copy(update={"num_attention_heads": 6})
    assert silicon(model=six).attention_ns(tokens(128), tokens(0), NONE) == round(
        fake.prompt_ns(128, heads=6)
    )


def test_the_cache_answers_without_importing_the_package(fake_package, monkeypatch):
    with_package = silicon()
    remove(monkeypatch)
    cached = silicon()
    assert not fake.imported()
    assert cached.name == with_package.name
    assert cached.layer_ns("lm_head", tokens(100)) == with_package.layer_ns("lm_head", tokens(100))
    batch = (tokens(30), tokens(50), tokens(99, 7))
    assert cached.attention_ns(*batch) == with_package.attention_ns(*batch)


def test_a_table_is_made_once_for_each_shape(fake_package, silicon_cache):
    silicon()
    silicon(model=MODEL.model_copy(update={"name": "same shape"}))
    assert fake_package.opened == ["h100_sxm"]
    silicon(tp_size=2, model=MODEL.model_copy(update={"num_attention_heads": 8, "num_key_value_heads": 4}))
    assert fake_package.opened == ["h100_sxm"] * 2
    assert len(list(silicon_cache.rglob("*.npz"))) == 2
    assert not list(silicon_cache.rglob("*.tmp"))


def test_a_newer_package_or_newer_code_does_not_read_old_tables(fake_package, monkeypatch):
    silicon()
    monkeypatch.setattr(silicon_table, "installed_version", lambda: "10.0")
    assert silicon().name.endswith("aiconfigurator-core 10.0)")
    monkeypatch.setattr(silicon_table, "code_key", lambda: "other code")
    silicon()
    assert fake_package.opened == ["h100_sxm"] * 3


def test_without_the_package_the_newest_cached_version_answers(fake_package, monkeypatch):
    for version in ("9.9", "9.10"):
        monkeypatch.setattr(silicon_table, "installed_version", lambda version=version: version)
        silicon()
    remove(monkeypatch)
    assert silicon().name.endswith("aiconfigurator-core 9.10)")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a table"])
def test_a_damaged_table_is_made_again(fake_package, silicon_cache, content):
    silicon()
    (file,) = silicon_cache.rglob("*.npz")
    file.write_bytes(content)
    assert silicon().layer_ns("o_proj", tokens(16)) == round(fake.gemm_ns(16, 256, 256))
    assert fake_package.opened == ["h100_sxm"] * 2


def test_a_cache_that_cannot_be_written_is_a_warning(fake_package, silicon_cache, caplog):
    silicon_cache.parent.write_text("a file where the folder should be")
    assert silicon().layer_ns("o_proj", tokens(16)) == round(fake.gemm_ns(16, 256, 256))
    assert "silicon tables are not kept" in caplog.text


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LLMSERVINGSIM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert silicon_table.cache_dir() == tmp_path / "llmservingsim" / "silicon"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert silicon_table.cache_dir() == tmp_path / ".cache" / "llmservingsim" / "silicon"


def test_without_package_and_cache_the_error_says_how_to_install(fake_package, monkeypatch):
    remove(monkeypatch)
    with pytest.raises(InputError) as caught:
        silicon()
    assert str(caught.value) == (
        f"hardware: no latencies of four-heads on H100; silicon: latency source: {INSTALL}"
    )
    assert open_latency_model(QUERY).name == "calibrated:H100"


def test_auto_takes_silicon_before_descriptions_once_it_is_there(fake_package, monkeypatch):
    assert open_latency_model(QUERY).name.startswith("silicon:H100/")
    remove(monkeypatch)
    assert open_latency_model(QUERY).name.startswith("silicon:H100/")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight_bits": 8}, "weight_bits: 8: no rows of it on H100"),
        ({"weight_bits": 32}, "weight_bits: 32: aiconfigurator-core has rows of 8 and 16 bits"),
        ({"kv_bits": 8}, "head_dim 64 and 8-bit KV on H100"),
        (
            {"model": MODEL.model_copy(update={"head_dim": 80})},
            "no attention rows of 4 heads, 2 K/V heads, head_dim 80 and 16-bit KV on H100",
        ),
        (
            {"model": MODEL.model_copy(update={"num_attention_heads": 64})},
            "no attention rows of 64 heads, 2 K/V heads",
        ),
        (
            {"model": MODEL.model_copy(update={"sliding_window": 128})},
            "sliding_window: 128: only attention to all tokens is read from aiconfigurator-core",
        ),
        (
            {"mem_bw_gbps": 900},
            "mem_bw: 900 GB/s: these rows were measured on a card with 1000 GB/s",
        ),
    ],
)
def test_what_was_not_measured_is_refused(fake_package, changes, reason):
    with pytest.raises(InputError) as caught:
        silicon(**changes)
    assert reason in str(caught.value)


def test_other_cards_name_those_there_are(fake_package):
    with pytest.raises(InputError, match=f"'TPU' is unknown; known hardware: {', '.join(sorted(SYSTEMS))}"):
        silicon(hardware="TPU")


def test_a_package_that_cannot_be_read_says_how_to_get_the_right_one(fake_package, monkeypatch):
    monkeypatch.delattr(sys.modules["aiconfigurator_core.sdk.perf_database"], "get_database")
    with pytest.raises(
        InputError, match=r"aiconfigurator-core 9.8.7 cannot be read .*compile.sh --with silicon"
    ):
        silicon()
    assert open_latency_model(QUERY).name == "calibrated:H100"


FOUR_EXPERTS = MODEL.model_copy(
    update={
        "model_type": "mixtral",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
    }
)


def test_experts_are_not_layers(fake_package):
    model = silicon(model=FOUR_EXPERTS)
    assert (model.layer_ns("q_proj", tokens(1)) > 0).all()
    with pytest.raises(InputError, match="gate_proj: not a dense layer of this model"):
        model.layer_ns("gate_proj", tokens(1))
    assert (model.layer_ns("gate", tokens(1)) > 0).all()


@pytest.mark.parametrize("reopened", [False, True])
def test_experts_take_what_their_ranks_share_of_a_batch_takes(fake_package, reopened):
    """Two experts of four with 32 tokens together: a rank's half of a batch of 32 tokens with two choices each."""
    for _ in range(1 + reopened):  # from the package, then from the cache
        model = silicon(model=FOUR_EXPERTS)
    assert model.moe_ns(tokens(8, 8, 8, 8)) == round(fake.experts_ns(16, 1))
    assert model.moe_ns(tokens(30, 2)) == round(fake.experts_ns(32, 2))
    assert model.moe_ns(tokens(0, 0)) == 0
    assert model.moe_source(tokens(30, 2)) is Source.INTERPOLATED
    assert model.moe_source(tokens(256, 256)) is Source.EXTRAPOLATED
    with pytest.raises(InputError, match="experts: no rows of 3 experts on a rank, only of 4, 2"):
        model.moe_ns(tokens(1, 1, 1))


def test_experts_of_a_shape_that_was_not_measured_are_refused(fake_package):
    wide = FOUR_EXPERTS.model_copy(update={"moe_intermediate_size": 1024})
    with pytest.raises(InputError, match="experts: aiconfigurator-core has no rows of experts of four-heads"):
        silicon(model=wide).moe_ns(tokens(1, 1, 1, 1))
    with pytest.raises(InputError, match="no rows of experts"):
        silicon().moe_ns(tokens(1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ep_size": 4}, "experts: no rows of 1 experts on a rank, only of 4, 2"),
        ({"expert_tp_size": 2}, "experts: aiconfigurator-core has no rows of experts of four-heads"),
    ],
)
def test_auto_passes_over_silicon_where_the_experts_of_a_rank_were_not_measured(
    fake_package, caplog, changes, reason
):
    query = LatencyQuery(**{**vars(QUERY), "model": FOUR_EXPERTS, **changes})
    assert open_latency_model(query).name == "calibrated:H100"
    (record,) = caplog.records
    assert (
        record.getMessage()
        == f"latencies from calibrated:H100, because {silicon(**vars(query)).name}: {reason}"
    )


@pytest.mark.parametrize("ep_size", [1, 2])
def test_auto_takes_silicon_where_the_experts_of_a_rank_were_measured(fake_package, caplog, ep_size):
    query = LatencyQuery(**{**vars(QUERY), "model": FOUR_EXPERTS, "ep_size": ep_size})
    assert open_latency_model(query).name.startswith("silicon:H100/")
    assert not caplog.records

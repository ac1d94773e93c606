"""Tables written from the source ``silicon`` give its numbers back."""

import fake_aiconfigurator as fake
import numpy as np
import pytest
from fake_aiconfigurator import MODEL, QUERY
from synthetic_tables import tokens

from llm_profile import silicon_export
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.layers import GATE_UP_LAYERS, LAYERS, QKV_LAYERS
from llm_profile.layers_csv import read_layer_rows
from llm_profile.profiles import Profile

NONE = tokens()


@pytest.fixture
def exported(fake_package, tmp_path, monkeypatch):
    monkeypatch.setattr(silicon_export, "MAX_TOKENS", 300)
    silicon_export.export(QUERY, tmp_path / "tables")
    query = LatencyQuery("H100", MODEL, 1, profile_dir=tmp_path / "tables")
    return open_latency_model(query, "tables"), open_latency_model(QUERY, "silicon")


def test_layers_are_the_same(exported):
    tables, silicon = exported
    for layer in LAYERS:
        if layer != "attn":
            assert (
                tables.layer_ns(layer, tokens(1, 99, 300)) == silicon.layer_ns(layer, tokens(1, 99, 300))
            ).all()


def test_attention_is_the_same_at_the_written_points(exported):
    tables, silicon = exported
    for chunk, context in ((128, 0), (1024, 4096)):
        batch = (tokens(chunk), tokens(context), NONE)
        assert tables.attention_ns(*batch) == pytest.approx(silicon.attention_ns(*batch), abs=1)
    assert tables.attention_ns(NONE, NONE, np.full(8, 128)) == round(fake.decode_ns(8, 128))


def test_a_fused_kernel_is_one_layer_and_a_fit_knows_it(fake_package, tmp_path, monkeypatch):
    monkeypatch.setattr(silicon_export, "MAX_TOKENS", 40)
    place = silicon_export.export(QUERY, tmp_path, fused=True)
    rows = read_layer_rows(place / "layers.csv", QUERY)
    silicon = open_latency_model(QUERY, "silicon")
    for kernel, layers in (("q_proj", QKV_LAYERS), ("gate_proj", GATE_UP_LAYERS)):
        ns = sum(silicon.layer_ns(layer, tokens(33)) for layer in layers)
        assert rows[kernel].by_count()[33] == ns[0]
    profile = Profile(MODEL, 1, {layer: of.by_count() for layer, of in rows.items()}, {}, {})
    assert (profile.fused_qkv, profile.fused_gate_up) == (True, True)


def test_the_command_line_names_the_folder_and_what_is_wrong(fake_package, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(silicon_export, "MAX_TOKENS", 2)
    arguments = ["--hardware", "H100", "--model", "meta-llama/Llama-3.1-8B", "--out", str(tmp_path)]
    assert silicon_export.main(arguments) == 2
    assert "no attention rows of 32 heads, 8 K/V heads, head_dim 128" in capsys.readouterr().err
    assert silicon_export.main([*arguments, "--model", "unknown"]) == 2
    monkeypatch.setattr(silicon_export, "load_model_config", lambda _: MODEL)
    assert silicon_export.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'H100' / 'four-heads' / 'tp1'}\n"

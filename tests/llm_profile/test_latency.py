import pytest
from synthetic_bundles import write_bundle
from synthetic_tables import tokens

from astra_sim.input_error import InputError
from llm_profile.hardware import known_hardware
from llm_profile.latency import SOURCES, LatencyModel, LatencyQuery, open_latency_model
from llm_profile.layers import LAYERS
from llm_profile.silicon_systems import SYSTEMS


def test_tables_go_before_descriptions(llama, tables):
    folder = tables("A6000")
    query = LatencyQuery("A6000", llama, 1, profile_dir=folder)
    assert open_latency_model(query).name == "tables:A6000/meta-llama/Llama-3.1-8B/tp1"
    assert open_latency_model(query, "calibrated").name == "calibrated:A6000"
    assert open_latency_model(LatencyQuery("A6000", llama, 2, profile_dir=folder)).name == "calibrated:A6000"


def test_tables_are_found_in_the_current_directory(llama, tables, tmp_path, monkeypatch):
    (tmp_path / "llm_profile").mkdir()
    tables().rename(tmp_path / "llm_profile" / "perf_models")
    monkeypatch.chdir(tmp_path)
    assert open_latency_model(LatencyQuery("CARD", llama, 1)).name.startswith("tables:CARD/")


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "silicon"])
def test_every_source_answers_the_protocol(llama, tables, source):
    folder = tables("A6000")
    write_bundle(folder / "A6000" / llama.name / "bf16" / "tp1")
    model = open_latency_model(LatencyQuery("A6000", llama, 1, profile_dir=folder), source)
    assert isinstance(model, LatencyModel)
    for layer in LAYERS:
        if layer != "attn":
            ns = model.layer_ns(layer, tokens(1, 10))
            assert ns.dtype == "int64"
            assert (ns > 0).all()
    assert isinstance(model.attention_ns(tokens(5), tokens(0), tokens(9, 9)), int)


def test_unknown_hardware_names_the_known(llama, tables):
    query = LatencyQuery("H300", llama, 1, profile_dir=tables())
    with pytest.raises(InputError) as caught:
        open_latency_model(query)
    known = ", ".join(sorted({"CARD", *SYSTEMS, *known_hardware()}))
    assert str(caught.value) == f"hardware: 'H300' is unknown; known hardware: {known}"


def test_a_card_without_this_model_says_what_there_is(llama, tables):
    folder = tables()
    with pytest.raises(InputError) as caught:
        open_latency_model(LatencyQuery("CARD", llama, 2, profile_dir=folder))
    assert str(caught.value) == (
        "hardware: no latencies of meta-llama/Llama-3.1-8B on CARD; "
        "tables: hardware: no tables CARD/meta-llama/Llama-3.1-8B/tp2/layers.csv; "
        f"found: CARD/meta-llama/Llama-3.1-8B/tp1 (in {folder}); "
        "bundle: hardware: no bundle CARD/meta-llama/Llama-3.1-8B/{variant}/tp2/dense.csv of 16 bits; "
        f"found: no bundles (in {folder}); "
        f"silicon: hardware: aiconfigurator-core has no rows of CARD; it has {', '.join(SYSTEMS)}; "
        f"calibrated: hardware: no description CARD.yaml; described: {', '.join(known_hardware())}"
    )


def test_unknown_source_and_folder_are_refused(llama, tmp_path):
    with pytest.raises(
        InputError, match="'magic' is unknown; use one of auto, tables, bundle, silicon, calibrated"
    ):
        open_latency_model(LatencyQuery("A6000", llama, 1), "magic")
    with pytest.raises(InputError, match="nowhere: no such folder of tables"):
        open_latency_model(LatencyQuery("A6000", llama, 1, profile_dir=tmp_path / "nowhere"))
    with pytest.raises(InputError, match="tp_size: 3: cannot split"):
        open_latency_model(LatencyQuery("A6000", llama, 3))

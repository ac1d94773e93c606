"""The attention predictor: trained on shots, kept as grids, read without scikit-learn."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from synthetic_tables import GPU_HEADER, decode_ns, prefill_ns, tokens, write_layers

from astra_sim.input_error import InputError
from llm_profile.attention_csv import prediction_files, predictor_file
from llm_profile.attention_predictor import train
from llm_profile.build_predictor import build, main
from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.model_config import load_model_config

NONE = tokens()
LLAMA = load_model_config("meta-llama/Llama-3.1-8B")
CHUNKS, CONTEXTS = (32, 64, 96, 128, 256), (0, 32, 128, 256, 512, 1024)
BATCHES, KVS = (1, 2, 4, 8, 16), (16, 64, 128, 256, 512, 1024)


def batch_ns(requests: int, total_kv: int) -> float:
    """A decode batch that changes kernels at 8 requests, as no line does."""
    return decode_ns(requests, total_kv) * (1.2 if requests >= 8 else 1)


def write_shots(folder) -> None:
    rows = [GPU_HEADER]
    rows += [f"{prefill_ns(n, c) / 1e6:.9f},,32,8,1,1,{n},{n + c},True" for n in CHUNKS for c in CONTEXTS]
    rows += [f",{batch_ns(n, n * kv) / 1e6:.9f},32,8,1,{n},0,{n * kv},False" for n in BATCHES for kv in KVS]
    (folder / "attention.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Tables with a predictor, the folder of the tables, and the query for it."""
    pytest.importorskip("sklearn")
    root = tmp_path_factory.mktemp("tables")
    folder = root / "CARD" / LLAMA.name / "tp1"
    write_layers(folder)
    write_shots(folder)
    query = LatencyQuery("CARD", LLAMA, 1, profile_dir=root)
    _, predictor = build(query, seed=0)
    return predictor, folder, replace(query, predicted_attention=True)


def test_a_predictor_finds_the_shots_that_it_was_not_trained_on(built):
    errors = built[0].errors
    assert {kind: error.shots for kind, error in errors.items()} == {"prefill": 30, "decode": 30}
    assert max(error.median for error in errors.values()) < 0.05
    facts = json.loads(predictor_file(built[1]).read_text())
    assert facts["cross_validated_error"]["decode"]["median"] == errors["decode"].median
    assert facts["seed"] == 0


def test_the_grids_are_the_published_files(built):
    prefill, decode = (file.read_text().splitlines() for file in prediction_files(built[1]))
    assert prefill[0] == "kv_cache_size,prefill_chunk_size,prediction"
    assert decode[0] == "batch_size,kv_cache_size,prediction"
    assert all(len([int(cell) for cell in row.split(",")]) == 3 for row in prefill[1:] + decode[1:])


def test_the_same_seed_gives_the_same_grids(built):
    again = train(built[1] / "attention.csv", built[2], seed=0)
    assert np.array_equal(again.prefill, built[0].prefill)
    assert np.array_equal(again.decode, built[0].decode)
    other = train(built[1] / "attention.csv", built[2], seed=1)
    assert not np.array_equal(other.decode, built[0].decode)


def test_a_simulation_asks_the_grids_without_scikit_learn(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    model = open_latency_model(built[2])
    assert model.name == f"tables:CARD/{LLAMA.name}/tp1:predicted"
    assert model.attention_ns(tokens(64), tokens(512), NONE) == pytest.approx(prefill_ns(64, 512), rel=0.03)
    # far beyond the grid time goes on growing, which trees alone do not
    for n, kv in ((4, 100), (8, 300), (16, 100_000)):
        found = model.attention_ns(NONE, NONE, np.full(n, kv))
        assert found == pytest.approx(batch_ns(n, n * kv), rel=0.05)


def test_provenance_is_that_of_the_shots(built):
    model = open_latency_model(built[2])
    assert model.attention_source(tokens(64), tokens(1024), NONE) is Source.INTERPOLATED
    assert model.attention_source(tokens(64), tokens(1025), NONE) is Source.EXTRAPOLATED
    assert model.attention_source(NONE, NONE, np.full(17, 100)) is Source.EXTRAPOLATED


def test_grids_without_the_shots_behind_them_are_estimates(built, tmp_path):
    folder = tmp_path / "CARD" / LLAMA.name / "tp1"
    write_layers(folder)
    (folder / "predictions").mkdir()
    for file in prediction_files(built[1]):
        (folder / "predictions" / file.name).write_text(file.read_text())
    model = open_latency_model(replace(built[2], profile_dir=tmp_path))
    assert model.attention_source(tokens(64), tokens(0), NONE) is Source.ESTIMATED


def test_a_predictor_of_another_table_is_refused(built, tmp_path):
    folder = tmp_path / "CARD" / LLAMA.name / "tp1"
    write_layers(folder)
    write_shots(folder)
    (folder / "predictions").mkdir()
    for file in (*prediction_files(built[1]), predictor_file(built[1])):
        (folder / "predictions" / file.name).write_text(file.read_text())
    query = replace(built[2], profile_dir=tmp_path)
    open_latency_model(query)
    with (folder / "attention.csv").open("a") as stream:
        stream.write(",0.02,32,8,1,3,0,2000,False\n")
    with pytest.raises(InputError) as caught:
        open_latency_model(query)
    assert str(caught.value) == (
        f"{predictor_file(folder)}: attention_csv_sha256: was not made from the attention.csv that is here now; "
        f"make it with llm_profile/build_predictor.sh --hardware CARD --model {LLAMA.name} --tp 1 "
        f"--profile-dir {tmp_path}"
    )


def test_tables_without_a_predictor_say_how_to_make_one(llama, tables):
    root = tables()
    query = LatencyQuery("CARD", llama, 1, profile_dir=root, predicted_attention=True)
    with pytest.raises(InputError) as caught:
        open_latency_model(query)
    assert str(caught.value) == (
        f"{root}/CARD/{llama.name}/tp1/predictions: no predictor here for --enable-attn-prediction; make it with "
        f"llm_profile/build_predictor.sh --hardware CARD --model {llama.name} --tp 1 --profile-dir {root}"
    )


def test_only_tables_have_a_predictor(llama, tmp_path):
    query = LatencyQuery("A6000", llama, 1, predicted_attention=True)
    with pytest.raises(InputError, match="'calibrated' has no attention predictor, only 'tables' has"):
        open_latency_model(query, "calibrated")
    with pytest.raises(InputError, match=r"no tables A6000/.*; the attention predictor needs tables"):
        open_latency_model(replace(query, profile_dir=tmp_path))


def test_the_command_line_says_how_good_it_is_or_what_is_wrong(tables, capsys, monkeypatch):
    root = tables()
    arguments = ["--hardware", "CARD", "--model", LLAMA.name, "--profile-dir", str(root)]
    assert main(arguments) == 2
    file = root / "CARD" / LLAMA.name / "tp1" / "attention.csv"
    few = f"error: {file}: is_prefill: 9 different prefill shots; a predictor needs 20\n"
    assert capsys.readouterr().err == few
    assert main([*arguments, "--tp", "2"]) == 2
    assert capsys.readouterr().err == f"error: --hardware: no CARD/{LLAMA.name}/tp2/attention.csv in {root}\n"
    write_shots(file.parent)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.linear_model", None)
        assert main(arguments) == 2
    missing = "error: scikit-learn: is not installed; install it with ./compile.sh --with predict\n"
    assert capsys.readouterr().err == missing
    assert not (file.parent / "predictions").exists()
    pytest.importorskip("sklearn")
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{file.parent / 'predictions'}: cross-validated error: prefill ")
    assert said.endswith("p90 of 30 shots\n")


def test_published_grids_are_read(reference_profiles):
    phi = load_model_config("microsoft/Phi-mini-MoE-instruct")
    query = LatencyQuery("A6000", phi, 1, profile_dir=reference_profiles, predicted_attention=True)
    model = open_latency_model(query)
    assert model.attention_ns(tokens(32), tokens(0), NONE) == pytest.approx(14_943, rel=0.01)
    assert model.attention_source(tokens(4096), tokens(0), NONE) is Source.EXTRAPOLATED


def test_held_out_shots_of_a_published_table_are_found(reference_profiles, tmp_path):
    """Every eighth decode of the smallest table; docs/latencies.md has the errors of all."""
    pytest.importorskip("sklearn")
    query = LatencyQuery("A6000", load_model_config("microsoft/Phi-mini-MoE-instruct"), 1)
    file = reference_profiles / "A6000" / query.model.name / "tp1" / "attention.csv"
    header, *rows = file.read_text().splitlines()
    kept = [row for row in rows if ",True," in row] + [row for row in rows if ",False," in row][::8]
    thinned = tmp_path / "attention.csv"
    thinned.write_text("\n".join([header, *kept]) + "\n")
    errors = train(thinned, query).errors
    assert errors["prefill"].median < 0.005
    assert errors["prefill"].p90 < 0.05
    assert errors["decode"].median < 0.015
    assert errors["decode"].p90 < 0.08

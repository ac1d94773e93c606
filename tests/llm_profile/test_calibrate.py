from dataclasses import replace

import numpy as np
import pytest
from synthetic_tables import GPU_HEADER, tokens

from llm_profile.calibrate import error_table, fit, main
from llm_profile.calibrate_check import held_out_errors
from llm_profile.hardware import find_hardware, load_hardware
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.layers import LAYERS
from llm_profile.model_config import load_model_config
from llm_profile.profiles import Profile, read_profiles

NONE = tokens()


def own_layers():
    """One row for every layer but the attention."""
    return {layer: {64: 1000.0} for layer in LAYERS if layer != "attn"}


@pytest.fixture
def own_tables(llama, tmp_path):
    """Tables of A6000, written from its own description: a fit must find them again."""
    model = open_latency_model(LatencyQuery("A6000", llama, 1), "calibrated")
    folder = tmp_path / "A6000" / llama.name / "tp1"
    folder.mkdir(parents=True)
    counts = np.unique(np.geomspace(1, 2048, 60).astype(np.int64))
    rows = ["layer_name,input,kv_cache,tp_size,latency(ns)"]
    for layer in LAYERS:
        if layer != "attn":
            ns = model.layer_ns(layer, counts)
            rows += [f"{layer},{n},0,1,{t}" for n, t in zip(counts.tolist(), ns.tolist(), strict=True)]
    (folder / "layers.csv").write_text("\n".join(rows) + "\n")
    rows = [GPU_HEADER]
    for n in (32, 128, 512, 2048):
        for c in (0, 128, 512, 1024, 2048, 8192):
            rows.append(f"{model.attention_ns(tokens(n), tokens(c), NONE) / 1e6},,32,8,1,1,{n},{c},True")
    for n in (1, 4, 16, 64):
        for kv in (32, 64, 512, 1024, 4096):
            ns = model.attention_ns(NONE, NONE, np.full(n, kv))
            rows.append(f",{ns / 1e6},32,8,1,{n},0,{n * kv},False")
    (folder / "attention.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_fit_finds_the_coefficients_that_made_the_tables(own_tables):
    card = load_hardware(find_hardware("A6000"))
    profiles = read_profiles(own_tables, "A6000")
    fitted = card.model_copy(update={"coefficients": fit(card, profiles)})
    errors = error_table(fitted, profiles)
    assert {kind.rsplit(" ", 1)[1] for kind in errors} == {
        "block",
        "embedding",
        "lm_head",
        "prefill",
        "decode",
    }
    assert all(median < 0.02 for median, _ in errors.values()), errors
    for part, names in (
        ("gemm", ("fixed_ns", "memory_efficiency", "compute_efficiency")),
        ("prefill", ("fixed_ns", "efficiency", "crowding", "tail", "tile_rows")),
    ):
        found, true = getattr(fitted.coefficients, part), getattr(card.coefficients, part)
        assert {name: getattr(found, name) for name in names} == pytest.approx(
            {name: getattr(true, name) for name in names}, rel=0.02
        )


def test_check_prints_a_table(own_tables, capsys):
    assert main(["--profiles", str(own_tables), "--hardware", "A6000", "--check"]) == 0
    assert "| A6000/meta-llama/Llama-3.1-8B/tp1 block | 0.0% | 0.0% |" in capsys.readouterr().out


def test_held_out_errors_are_of_a_model_that_was_not_fitted():
    card = load_hardware(find_hardware("A6000"))
    names = ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B")
    profiles = [Profile(load_model_config(name), 1, {}, {64: {0: 9000.0}}, {}) for name in names]
    fitted_to = []

    def fit_nothing(card, others):
        fitted_to.extend(profile.model.name for profile in others)
        return card.coefficients

    errors = held_out_errors(card, [replace(p, layers=own_layers()) for p in profiles], fit_nothing)
    assert fitted_to == [names[0], names[1]]  # the 70B is held out first
    assert {f"{name}/tp1 prefill" for name in names} <= errors.keys()


def test_a_card_with_one_model_has_none_to_hold_out(own_tables, capsys):
    assert main(["--profiles", str(own_tables), "--hardware", "A6000", "--held-out"]) == 2
    assert capsys.readouterr().err == (
        "error: --held-out: A6000 has no other dense model than meta-llama/Llama-3.1-8B\n"
    )


def test_bad_arguments_are_one_line(tmp_path, capsys):
    assert main(["--profiles", str(tmp_path), "--hardware", "NONE"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --hardware: 'NONE' has no description; described: A100, A6000, "
    )
    assert main(["--profiles", str(tmp_path), "--hardware", "A6000"]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'A6000'}: no tables ({{model}}/tp{{N}}/layers.csv) here\n"
    )

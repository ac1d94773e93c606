import shutil
from dataclasses import replace

import numpy as np
import pytest
from synthetic_tables import GPU_HEADER, tokens

from llm_profile.calibrate import error_table, fit, main
from llm_profile.calibrate_check import decode_ns, held_out_errors
from llm_profile.calibrate_decode import fit_decode
from llm_profile.hardware import find_hardware, load_hardware
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.layers import LAYERS
from llm_profile.model_config import load_model_config
from llm_profile.profiles import Profile, read_profiles
from llm_profile.roofline import RooflineLatencyModel

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
    printed = capsys.readouterr().out
    assert "| A6000/meta-llama/Llama-3.1-8B/tp1 block | 0.0% | 0.0% | 4%, 12% | met |" in printed
    assert "tp1 lm_head | 0.0% | 0.0% | | |" in printed
    assert printed.endswith("3 of 3 goals met\n")


def test_check_without_a_card_takes_all_that_have_tables_in_any_folder(own_tables, tmp_path, capsys):
    folder = own_tables / "A6000"
    other = tmp_path / "other" / "H100"
    shutil.copytree(folder, other)  # of another card: its description misses these times
    assert main(["--profiles", str(own_tables), str(other.parent), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "| A6000/meta-llama/Llama-3.1-8B/tp1 decode | 0.0% | 0.0% | 5%, 15% | met |" in printed
    assert "missed: H100/meta-llama/Llama-3.1-8B/tp1 block" in printed
    assert "3 of 6 goals met" in printed


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--hardware: 0 values: a fit needs one (--check takes any number)"),
        (["--hardware", "A6000", "H100"], "--hardware: 2 values: a fit needs one (--check takes any number)"),
        (["--check", "--held-out"], "--check: cannot be combined with --held-out, which fits"),
        (["--check"], "--profiles: no tables of a described card in {folder}"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, capsys, more, said):
    assert main(["--profiles", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err == f"error: {said.format(folder=tmp_path)}\n"


def decodes_of(card, llama, ns):
    """A profile with the decode batches that ``ns`` (requests, KV of each) says, and no layers."""
    decode = {
        n: {n * kv: float(ns(n, kv)) for kv in (17, 64, 200, 700, 1500, 3000, 6000, 20000)}
        for n in (1, 2, 3, 8, 16, 24, 40, 100, 200)
    }
    return Profile(llama, 1, {}, {}, decode)


def test_a_fit_finds_that_a_kernel_splits_keys_and_what_uneven_batches_add(llama):
    """From one head ratio, which does not tell how often K and V are read, but the kernel does."""
    card = load_hardware(find_hardware("A100"))
    true = card.coefficients.decode
    assert true.splits is not None
    c = card.coefficients.model_copy(update={"decode": true.model_copy(update={"skew": 0.03})})
    query = LatencyQuery("A100", llama, 1)
    model = RooflineLatencyModel(card.model_copy(update={"coefficients": c}), query)

    def ns(*kv):
        return model.attention_ns(NONE, NONE, np.array(kv))

    profile = decodes_of(card, llama, lambda n, kv: ns(*[kv] * n))
    rows = [(8, 1, 300, 5000), (40, 4, 100, 1500), (100, 30, 64, 4000)]
    ratios = [
        ns(*[b] * long, *[a] * (n - long)) / ns(*[round((long * b + (n - long) * a) / n)] * n)
        for n, long, a, b in rows
    ]
    profile = replace(profile, uneven=np.array([(*row, r) for row, r in zip(rows, ratios, strict=True)]).T)
    found = fit_decode(card, [profile])
    assert found.splits is not None
    assert found.gqa_packed
    assert found.skew == pytest.approx(0.03, abs=0.004)
    assert found.efficiency == pytest.approx(true.efficiency, rel=0.1)
    n, total, measured = profile.decode_samples()
    assert np.median(np.abs(decode_ns(card, profile, found, n, total) / measured - 1)) < 0.02


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

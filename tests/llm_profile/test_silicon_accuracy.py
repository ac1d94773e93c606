"""How close silicon rows come to published measurements, which are of other engine versions.

Skipped without the package and the reference tables; ``pytest -s`` prints the errors as a Markdown table.
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from synthetic_tables import tokens

from llm_profile.latency import LatencyModel, LatencyQuery, open_latency_model
from llm_profile.layers import BLOCK_LAYERS, GEMM_LAYERS
from llm_profile.model_config import load_model_config
from llm_profile.profiles import read_profiles

NONE = tokens()
BUNDLE_LAYERS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
    "layernorm": ("input_layernorm", "post_layernorm"),
    "rotary_emb": ("rope",),
    "act_fn": ("act_fn",),
}
LIMITS = {"matrices": 0.08, "block": 0.06, "history": 0.05, "prompt": 0.12, "decode": 0.12, "mixed": 0.16}


def median_error(name: str, predicted: object, measured: object) -> float:
    relative = np.abs(np.asarray(predicted, dtype=float) / np.asarray(measured, dtype=float) - 1)
    print(f"\n| {name} | {np.median(relative):.1%} | {np.quantile(relative, 0.9):.1%} |", end="")
    return float(np.median(relative))


@pytest.mark.parametrize(("model", "limit"), [("8B/tp1", 0.08), ("8B/tp2", 0.08), ("70B/tp4", 0.08)])
def test_matrix_layers_of_h100(real_package, reference_profiles, model, limit):
    (profile,) = (p for p in read_profiles(reference_profiles, "H100") if p.key.endswith(model))
    silicon = open_latency_model(profile.query("H100"), "silicon")
    counts = tokens(*sorted(profile.layers["q_proj"]))
    names = [layer for layer in (*BLOCK_LAYERS, "lm_head") if layer in GEMM_LAYERS]
    measured = sum(np.array([profile.layers[name][n] for n in counts.tolist()]) for name in names)
    predicted = sum(silicon.layer_ns(name, counts) for name in names)
    assert median_error(f"H100/{profile.key} matrices", predicted, measured) <= limit


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B"])
def test_rtxpro6000(real_package, reference_profiles, name, tp_size):
    folder = reference_profiles.parent / "profiles_v2" / "RTXPRO6000" / name / "bf16" / f"tp{tp_size}"
    if not folder.is_dir():
        pytest.skip("reference bundles are not here (REFERENCE_DIR)")
    silicon = open_latency_model(LatencyQuery("RTXPRO6000", load_model_config(name), tp_size), "silicon")
    compared = {"block": block_times(silicon, folder / "dense.csv")}
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read(folder / "attention.csv"):
        q, context, requests, kv = (
            int(row[c]) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
        )
        kind = "decode" if not q else "mixed" if requests else "history" if context else "prompt"
        prefill = (tokens(q), tokens(context)) if q else (NONE, NONE)
        ns = silicon.attention_ns(*prefill, np.full(requests, kv))
        kinds[kind].append((ns / 1e3, float(row["time_us"])))
    compared |= {kind: tuple(zip(*pairs, strict=True)) for kind, pairs in kinds.items()}
    for kind, (predicted, measured) in compared.items():
        error = median_error(f"RTXPRO6000/{name}/tp{tp_size} {kind}", predicted, measured)
        assert error <= LIMITS[kind], kind


def block_times(silicon: LatencyModel, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, measured) microseconds of a block without attention, at every measured token count."""
    times: dict[int, dict[str, float]] = defaultdict(dict)
    for row in read(file):
        times[int(row["tokens"])][row["layer"]] = float(row["time_us"])
    counts = tokens(*sorted(times))
    repeats = {"layernorm": 2}
    measured = [sum(times[n][name] * repeats.get(name, 1) for name in BUNDLE_LAYERS) for n in counts.tolist()]
    layers = [layer for group in BUNDLE_LAYERS.values() for layer in group]
    return sum(silicon.layer_ns(layer, counts) for layer in layers) / 1e3, np.array(measured)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_grouped_experts_are_close_to_a_bundle_of_the_card(real_package, reference_bundles):
    """Of 50 batches those that reach every expert; the bundle's have the router too, which is small beside them."""
    qwen = load_model_config("Qwen/Qwen3-30B-A3B-Instruct-2507")
    silicon = open_latency_model(LatencyQuery("RTXPRO6000", qwen, 1), "silicon")
    rows = read(reference_bundles / "RTXPRO6000" / qwen.name / "bf16" / "tp1" / "moe.csv")
    whole = [row for row in rows if row["activated_experts"] == "128"]
    predicted = [silicon.moe_ns(np.full(128, int(row["tokens"]) // 16)) / 1e3 for row in whole]
    error = median_error("RTXPRO6000/Qwen3-30B-A3B moe", predicted, [float(row["time_us"]) for row in whole])
    assert error <= 0.03

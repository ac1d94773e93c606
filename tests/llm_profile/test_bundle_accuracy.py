"""How well bundles interpolate published measurements, and a real run on them; skipped without these."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_tables import tokens

from inference_serving.cli import main
from llm_profile.bundle_attention import COLUMNS, BundleAttention
from llm_profile.bundle_layers import read_layer_rows
from llm_profile.bundle_skew import read_skew
from llm_profile.table_csv import MICROSECONDS, Rows, read_key_rows

NONE = tokens()
BUNDLES = [
    "RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1",
    "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp1",
    "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp2",
    "RTXPRO6000/Qwen/Qwen3-32B/bf16/tp1",
    "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1",
]
CHUNK, CONTEXT, REQUESTS, KV = range(4)
SKEW_SCALE = 1 / 3
"""Times of skew.csv are sums over three repetitions, those of attention.csv are means."""


def priced(attention: BundleAttention, key) -> int:
    chunk, context, requests, kv = (int(value) for value in key)
    prefill = (tokens(chunk), tokens(context)) if chunk else (NONE, NONE)
    return attention.ns(*prefill, np.full(requests, kv))


def errors(predicted, measured) -> tuple[float, float]:
    off = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return float(np.median(off)), float(np.percentile(off, 90))


def only(rows: Rows, keep) -> Rows:
    return Rows(rows.file, rows.keys[keep], rows.ns[keep], rows.lines[keep])


@pytest.mark.parametrize("key", BUNDLES)
def test_layers_left_out_are_found_by_their_neighbours(reference_bundles, key):
    for file, column in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        predicted, measured = [], []
        for rows in read_layer_rows(reference_bundles / key / file, column).values():
            counts = rows.keys[:, 0]
            for i in range(1, len(counts) - 1):
                predicted.append(np.interp(counts[i], np.delete(counts, i), np.delete(rows.ns, i)))
                measured.append(rows.ns[i])
        median, p90 = errors(predicted, measured)
        assert median <= 0.01
        assert p90 <= 0.06


@pytest.mark.parametrize("key", BUNDLES)
def test_attention_left_out_is_found_by_its_neighbours(reference_bundles, key):
    rows = read_key_rows(reference_bundles / key / "attention.csv", COLUMNS, ("time_us", MICROSECONDS))
    keys = rows.keys
    held = np.random.default_rng(1).random(len(keys)) < 0.1
    held &= (keys < keys.max(axis=0)).all(axis=1)
    rest = BundleAttention(only(rows, ~held), None, 0.0)
    kinds = {
        "prefill": keys[:, REQUESTS] == 0,
        "decode": keys[:, CHUNK] == 0,
        "mixed": (keys[:, REQUESTS] > 0) & (keys[:, CHUNK] > 0),
    }
    limits = {"prefill": (0.02, 0.06), "decode": (0.02, 0.06), "mixed": (0.015, 0.12)}
    for kind, mine in kinds.items():
        at = np.flatnonzero(held & mine)
        median, p90 = errors([priced(rest, keys[i]) for i in at], rows.ns[at])
        assert median <= limits[kind][0], kind
        assert p90 <= limits[kind][1], kind


@pytest.mark.parametrize("key", BUNDLES)
def test_measured_batches_are_given_back(reference_bundles, key):
    rows = read_key_rows(reference_bundles / key / "attention.csv", COLUMNS, ("time_us", MICROSECONDS))
    attention = BundleAttention(rows, None, 0.0)
    for i in range(0, len(rows.keys), 13):
        assert priced(attention, rows.keys[i]) == pytest.approx(rows.ns[i], abs=1)


@pytest.mark.parametrize("key", BUNDLES)
def test_uneven_batches_are_close_to_measured_ones(reference_bundles, key):
    rows = read_key_rows(reference_bundles / key / "attention.csv", COLUMNS, ("time_us", MICROSECONDS))
    skew = read_skew(reference_bundles / key / "skew_fit.csv")
    with_skew, without = BundleAttention(rows, skew, 0.0), BundleAttention(rows, None, 0.0)
    predicted, mean_only, measured = [], [], []
    with (reference_bundles / key / "skew.csv").open() as stream:
        for row in list(csv.DictReader(stream))[::11]:
            many, long = int(row["n"]), int(row["nb"])
            kv = np.repeat([int(row["kv_big"]), int(row["kvs"])], [long, many - long])
            chunk = int(row["pc"])
            prefill = (tokens(chunk), tokens(int(row["kp"]))) if chunk else (NONE, NONE)
            predicted.append(with_skew.ns(*prefill, kv))
            mean_only.append(without.ns(*prefill, kv))
            measured.append(float(row["t_skew_us"]) * 1000 * SKEW_SCALE)
    median, p90 = errors(predicted, measured)
    assert median <= 0.03
    assert p90 <= 0.12
    assert p90 < 0.6 * errors(mean_only, measured)[1]


def test_a_real_run_is_met(reference_bundles, tmp_path, capsys):
    """300 ShareGPT requests on vLLM 0.19; nothing is fitted to the run."""
    reference = reference_bundles.parent
    real_run = reference / "real_systems" / "rtxpro6000_llama31_8b"
    dataset = reference / "datasets" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
    if not real_run.is_dir() or not dataset.is_file():
        pytest.skip("the real run is not here")
    output = tmp_path / "out.csv"
    flags = {
        "--cluster-config": real_run / "config.json",
        "--dataset": dataset,
        "--num-req": 300,
        "--max-num-seqs": 128,
        "--max-num-batched-tokens": 2048,
        "--profile-dir": reference_bundles,
        "--latency-source": "bundle",
        "--output": output,
    }
    assert main([str(part) for pair in flags.items() for part in pair]) == 0
    capsys.readouterr()
    simulated, measured = _simulated(output), _measured(real_run / "requests.jsonl")
    limits = {"ttft": 0.04, "ttft p99": 0.03, "tpot": 0.01, "latency": 0.015}
    for name, limit in limits.items():
        assert simulated[name] == pytest.approx(measured[name], rel=limit), name


def _simulated(file: Path) -> dict[str, float]:
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    ttft, tpot, latency = (
        np.array([float(row[column]) / 1e9 for row in rows]) for column in ("TTFT", "TPOT", "latency")
    )
    return _summary(ttft, tpot, latency)


def _measured(file: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    queued, first, last = (
        np.array([row[f"{event}_ts"] for row in rows]) for event in ("queued", "first_token", "last_token")
    )
    outputs = np.array([row["output_toks"] for row in rows])
    return _summary(first - queued, (last - first) / np.maximum(outputs - 1, 1), last - queued)


def _summary(ttft, tpot, latency) -> dict[str, float]:
    return {
        "ttft": float(ttft.mean()),
        "ttft p99": float(np.percentile(ttft, 99)),
        "tpot": float(tpot.mean()),
        "latency": float(latency.mean()),
    }

"""What a run says of KV beyond the NPUs: CSV, summary, JSON, interval lines, ``--memory-series``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from inference_serving.cli import main

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
CHUNK_BYTES = 256 * 131072  # of Llama-3.1-8B


@pytest.fixture
def run(tmp_path, capsys):
    def simulate(
        config: str, *flags: str
    ) -> tuple[list[dict[str, str]], dict[str, Any], str, list[list[str]]]:
        files = {name: tmp_path / name for name in ("out.csv", "out.json", "series.tsv")}
        options = ["--cluster-config", str(ROOT / f"cluster_config/{config}.json"), *flags]
        options += ["--dataset", str(ROOT / "dataset/conversations.jsonl"), "--log-interval", "5"]
        options += ["--output", str(files["out.csv"]), "--summary-json", str(files["out.json"])]
        assert main([*options, "--memory-series", str(files["series.tsv"])]) == 0
        rows = list(csv.DictReader(files["out.csv"].open()))
        series = [line.split("\t") for line in files["series.tsv"].read_text().splitlines()]
        return rows, json.loads(files["out.json"].read_text()), capsys.readouterr().out, series

    return simulate


SHARED = ("--enable-prefix-caching", "--prefix-storage", "CPU", "--enable-prefix-sharing")


def test_csv_json_and_series_count_the_same_hits_in_the_second_tier(run):
    rows, facts, _, series = run("single_node_multi_instance", *SHARED)
    hits = sum(int(row["storage_hit_tokens"]) for row in rows)
    (pool,) = facts["prefix_storage"]
    assert (
        hits
        == pool["hit_tokens"]
        == sum(one["prefix_storage"]["hit_tokens"] for one in facts["instances"])
        > 0
    )
    assert pool["queried_tokens"] == sum(int(row["input"]) for row in rows)
    assert pool["used_bytes"] == pool["chunks"] * CHUNK_BYTES
    last = dict(zip(series[0], map(float, series[-1]), strict=True))
    assert last["cpu_of_node_0_mem_mb"] == pool["used_bytes"] / MIB
    assert last["cpu_of_node_0_prefix_hit_pct"] == pytest.approx(100 * pool["hit_ratio"])


def test_the_column_of_the_second_tier_is_the_last_and_only_there_with_it(run):
    rows, *_ = run("single_node_single_instance", *SHARED)
    assert list(rows[0])[-1] == "storage_hit_tokens"
    rows, facts, text, series = run("single_node_single_instance", "--enable-prefix-caching")
    assert "storage_hit_tokens" not in rows[0]
    assert "prefix_storage" not in facts
    assert "storage" not in text
    assert series[0] == [
        "time_s",
        *(f"instance0_{name}" for name in ("npu_mem_mb", "used_mb", "prefix_hit_pct")),
    ]


def test_the_summary_and_the_interval_lines_have_both_tiers(run):
    _, facts, text, _ = run("single_node_multi_instance", *SHARED)
    (pool,) = facts["prefix_storage"]
    ratio = f"{100 * pool['hit_ratio']:.2f}"
    assert any(
        line.startswith("Hit ratio, cpu of node 0") and line.endswith(ratio) for line in text.splitlines()
    )
    lines = [line for line in text.splitlines() if "storage hits:" in line]
    assert lines[-1].endswith(f"storage hits: {100 * pool['hit_ratio']:.1f} %")


def test_the_series_has_a_row_for_each_interval_and_begins_and_ends_with_the_weights(run):
    *_, series = run("single_node_single_instance")
    names, *rows = series
    times = [float(row[0]) for row in rows]
    assert times == [5.0 * (place + 1) for place in range(len(times))]
    last = dict(zip(names, map(float, rows[-1]), strict=True))
    assert last["instance0_npu_mem_mb"] == last["instance0_used_mb"] == pytest.approx(16_060_522_496 / MIB)


def test_evicted_and_reloaded_tokens_are_in_the_summary(run):
    _, facts, text, _ = run("single_node_memory_instance", "--num-gpu-blocks-override", "120")
    kept = facts["instances"][0]["evicted_kv"]
    assert kept["evicted_tokens"] == kept["reloaded_tokens"] > 0
    assert any(
        line.endswith(f"{kept['evicted_tokens']}, {kept['reloaded_tokens']}") for line in text.splitlines()
    )

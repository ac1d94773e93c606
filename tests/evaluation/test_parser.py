"""Parsers name what a file lacks."""

from __future__ import annotations

import json

import pytest

from astra_sim.input_error import InputError
from evaluation.parser.component_power import component_rows
from evaluation.parser.hit_rate import hit_rate_rows
from evaluation.parser.latency import latency_rows


def summary(folder, **fields):
    file = folder / "summary.json"
    file.write_text(json.dumps(fields))
    return file


def test_latencies_that_are_missing_are_named(tmp_path):
    with pytest.raises(InputError, match=r"latency_ms\.ttft\.median"):
        latency_rows("A", summary(tmp_path, latency_ms={"ttft": {"mean": 1.0}}))


def test_a_run_without_power_has_no_components(tmp_path):
    with pytest.raises(InputError, match="no power model"):
        component_rows("A", summary(tmp_path))


def test_components_are_summed_over_nodes_in_their_usual_order(tmp_path):
    nodes = [{"energy_by_component_j": {"pim": 1e3, "npu": 2e3}}, {"energy_by_component_j": {"npu": 3e3}}]
    rows = component_rows("A", summary(tmp_path, power={"nodes": nodes}))
    assert [(one.metric, one.value) for one in rows] == [
        ("component_npu_energy_kj", 5.0),
        ("component_pim_energy_kj", 1.0),
    ]


def test_prefix_hits_are_summed_over_instances(tmp_path):
    caches = [{"queried_tokens": 100, "hit_tokens": 50}, {"queried_tokens": 300, "hit_tokens": 50}]
    file = summary(tmp_path, instances=[{"prefix_cache": one} for one in caches] + [{}])
    (row,) = hit_rate_rows("A", file)
    assert row.value == 25.0


def test_runs_without_caches_have_no_hit_ratio(tmp_path):
    assert hit_rate_rows("A", summary(tmp_path, instances=[{}])) == []

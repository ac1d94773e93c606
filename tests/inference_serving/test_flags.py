"""Flags: the published names with their published defaults, synonyms, and the settings they end in."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astra_sim.input_error import InputError
from inference_serving.cli import main
from inference_serving.flags import make_parser, simulation_config
from inference_serving.settings import DumpSettings, SchedulerSettings, SimulationConfig

PUBLISHED = {  # LLMServingSim 2.0, release 1.0.0
    "cluster_config": Path("cluster_config/single_node_single_instance.json"),
    "max_batch": 0,
    "max_num_batched_tokens": 2048,
    "fp": 16,
    "request_routing_policy": "RR",
    "expert_routing_policy": "FAST",
    "enable_prefix_caching": False,
    "enable_prefix_sharing": False,
    "prefix_storage": "None",
    "enable_local_offloading": False,
    "enable_attn_offloading": False,
    "enable_sub_batch_interleaving": False,
    "enable_attn_prediction": False,
    "prioritize_prefill": False,
    "block_size": 16,
    "dataset": None,
    "output": None,
    "gen": False,
    "num_req": 100,
    "log_interval": 0.5,
    "log_level": "WARNING",
    "network_backend": "analytical",
}
NEWER = {
    "dtype": "auto",
    "kv_cache_dtype": "auto",
    "npu_memory_utilization": 0.9,
    "num_gpu_blocks_override": None,
    "reserve_full_isl": True,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
}
OWN = {
    "scheduling_policy": "fcfs",
    "async_scheduling": False,
    "latency_source": "auto",
    "profile_dir": None,
    "seed": 0,
    "summary_json": None,
    "dump_traces": None,
    "dump_iterations": "0-9",
    "et_dialect": "chakra",
}
DEFAULTS = {**PUBLISHED, **NEWER, **OWN}


def settings(*flags: str) -> SimulationConfig:
    return simulation_config(make_parser().parse_args(["--dataset", "w.jsonl", *flags]))


def scheduler(**changes: Any) -> SimulationConfig:
    return SimulationConfig(scheduler=SchedulerSettings(**changes))


def test_every_flag_has_its_published_default():
    found = vars(make_parser().parse_args([]))
    assert {name: found[name] for name in DEFAULTS} == DEFAULTS


def test_without_flags_the_settings_are_the_defaults_of_the_code():
    assert settings() == SimulationConfig()


@pytest.mark.parametrize("name", DEFAULTS)
def test_help_shows_every_flag(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    flag = "--" + name.replace("_", "-")
    assert re.search(rf"^  {flag}\b", capsys.readouterr().out, re.MULTILINE)


def test_help_shows_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "tokens per KV block (default: 16)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--max-batch 7", scheduler(max_num_seqs=7)),
        ("--max-num-batched-tokens 512", scheduler(max_num_batched_tokens=512)),
        ("--max-num-batched-tokens 0", scheduler(max_num_batched_tokens=0)),
        ("--block-size 32", scheduler(block_size=32)),
        ("--no-enable-chunked-prefill", scheduler(enable_chunked_prefill=False)),
        ("--long-prefill-token-threshold 64", scheduler(long_prefill_token_threshold=64)),
        ("--no-reserve-full-isl", scheduler(reserve_full_isl=False)),
        ("--prioritize-prefill", scheduler(prioritize_prefill=True)),
        ("--async-scheduling", scheduler(async_scheduling=True)),
        ("--scheduling-policy priority", scheduler(scheduling_policy="priority")),
        ("--gen", scheduler(skip_prefill=True)),
        ("--npu-memory-utilization 0.5", SimulationConfig(npu_memory_utilization=0.5)),
        ("--npu-memory-utilization 1", SimulationConfig(npu_memory_utilization=1.0)),
        ("--num-gpu-blocks-override 7", SimulationConfig(num_gpu_blocks_override=7)),
        ("--request-routing-policy LOAD", SimulationConfig(request_routing_policy="LOAD")),
        ("--latency-source calibrated", SimulationConfig(latency_source="calibrated")),
        ("--profile-dir tables", SimulationConfig(profile_dir=Path("tables"))),
        ("--latency-scale 1.5", SimulationConfig(latency_scale=1.5)),
        ("--step-overhead auto", SimulationConfig()),
        ("--step-overhead off", SimulationConfig(step_overhead_ns=0)),
        ("--step-overhead 250000", SimulationConfig(step_overhead_ns=250_000)),
        ("--layer-group-overhead auto", SimulationConfig()),
        ("--layer-group-overhead off", SimulationConfig(layer_group_overhead_ns=0)),
        ("--layer-group-overhead 90000", SimulationConfig(layer_group_overhead_ns=90_000)),
        ("--seed 5", SimulationConfig(seed=5)),
        ("--log-interval 2.5", SimulationConfig(log_interval_ns=2_500_000_000)),
        ("--log-interval 1e-9", SimulationConfig(log_interval_ns=1)),
    ],
)
def test_a_flag_changes_its_setting_and_nothing_else(flags, expected):
    assert settings(*flags.split()) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("--max-batch 7", "--max-num-seqs 7"),
        ("--fp 8", "--dtype fp8"),
        ("--fp 16", "--dtype bfloat16"),
        ("--fp 32", "--dtype float32"),
        ("--enable-chunked-prefill", ""),
        ("--reserve-full-isl", ""),
        ("--kv-cache-dtype auto", ""),
        ("--prefix-storage None --expert-routing-policy FAST --network-backend analytical", ""),
    ],
)
def test_some_flags_say_the_same(one, other):
    assert settings(*one.split()) == settings(*other.split())


@pytest.mark.parametrize(
    ("flags", "weight_bits", "kv_bits"),
    [
        ("", 16, 16),
        ("--fp 8", 8, 8),
        ("--fp 32", 32, 32),
        ("--fp 32 --dtype auto", 32, 32),
        ("--fp 32 --dtype fp8", 8, 8),
        ("--kv-cache-dtype fp8", 16, 8),
        ("--fp 8 --kv-cache-dtype half", 8, 16),
        ("--dtype float32 --kv-cache-dtype fp8_e5m2", 32, 8),
    ],
)
def test_dtype_goes_before_fp_and_the_kv_cache_follows_the_weights(flags, weight_bits, kv_bits):
    config = settings(*flags.split())
    assert (config.weight_bits, config.kv_bits or config.weight_bits) == (weight_bits, kv_bits)


def test_no_traces_are_dumped_unless_a_folder_is_given():
    assert settings("--dump-iterations", "3", "--et-dialect", "kaist").dump is None


@pytest.mark.parametrize(
    ("text", "iterations"),
    [
        ("0-9", range(10)),
        ("0-9,100", [*range(10), 100]),
        ("7", [7]),
        ("2-2", [2]),
        ("0-3,2-4", range(5)),
        (" 1 , 4-5 ", [1, 4, 5]),
    ],
)
def test_iterations_are_numbers_and_ranges(text, iterations):
    dump = settings("--dump-traces", "out", "--dump-iterations", text).dump
    assert dump == DumpSettings(Path("out"), frozenset(iterations), "chakra")


def test_the_dialect_of_dumped_graphs_can_be_chosen():
    dump = settings("--dump-traces", "out", "--et-dialect", "kaist").dump
    assert dump == DumpSettings(Path("out"), frozenset(range(10)), "kaist")


def test_the_last_of_repeated_flags_wins():
    assert settings("--seed", "1", "--seed", "2") == replace(SimulationConfig(), seed=2)


def test_no_limit_of_tokens_is_a_very_large_budget():
    assert settings("--max-num-batched-tokens", "0").scheduler.token_budget > 10**12


def test_a_wrong_flag_raises_an_input_error_with_the_name_of_the_flag_as_its_field():
    with pytest.raises(InputError) as caught:
        settings("--block-size", "0")
    assert (caught.value.file, caught.value.field) == ("", "--block-size")

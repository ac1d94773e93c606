"""Attention offloading in cluster configs: what it needs, what it goes with, what is refused and why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusters import instance, make_cluster, requests, simulate
from moe_clusters import MoeLatency, moe_instance
from pim_clusters import INTERLEAVED, OFFLOADED, pim_cluster, pim_file
from test_pim_runs import KV, QUERY, Submitted

from astra_sim.input_error import InputError
from inference_serving.config_builder import load_cluster
from inference_serving.engine_inputs import memory_configs, refuse_unless_stock
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.trace_dump import trace_text

ROOT = Path(__file__).parents[2]


def message_of(folder: Path, config: SimulationConfig = OFFLOADED, channels: int = 8, **section: Any) -> str:
    with pytest.raises(InputError) as error:
        pim_cluster(folder, [instance(folder, **section)], channels, config)
    assert error.value.file.endswith("cluster.json")
    return f"{error.value.field}: {error.value.message}"


def test_the_example_has_64_channels_behind_a_slower_host_link():
    cluster = load_cluster(ROOT / "cluster_config/single_node_pim_instance.json", OFFLOADED)
    (memory,) = memory_configs(cluster)
    assert (memory.pim_channels, memory.bandwidth_gbps, memory.latency_ns) == (64, 256, 14)


def test_a_memory_is_no_faster_than_its_channels(tmp_path):
    """One channel of 512 GB/s behind a host link of 256; then one whose bus has half of a GB/s."""
    fast = pim_cluster(tmp_path, [instance(tmp_path)], channels=1)
    assert memory_configs(fast)[0].bandwidth_gbps == 256
    device = tmp_path / "device.ini"
    slow = device.read_text().replace("data_rate = 64000", "data_rate = 62.5")
    file = tmp_path / "cluster.json"
    device.write_text(slow)
    assert memory_configs(load_cluster(file, OFFLOADED))[0].bandwidth_gbps == 0.5


def test_without_the_flag_the_device_changes_nothing(tmp_path):
    plain = pim_cluster(tmp_path, [instance(tmp_path)], config=SimulationConfig())
    assert plain.nodes[0].pim is None
    assert plain.instances[0].placement.keeps_kv
    assert memory_configs(plain)[0].pim_channels is None


def test_every_node_that_decodes_needs_a_device(tmp_path):
    file = pim_file(tmp_path, [instance(tmp_path)], nodes=2)
    config = json.loads(file.read_text())
    del config["nodes"][1]["cpu_mem"]["pim_config"]
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"nodes\[1\].cpu_mem.pim_config: is missing, but --enable-attn-off"):
        load_cluster(file, OFFLOADED)
    config["nodes"][1]["instances"][0]["pd_type"] = "prefill"
    config["nodes"][0]["instances"][0]["pd_type"] = "decode"
    file.write_text(json.dumps(config))
    assert [spec.pim is not None for spec in load_cluster(file, OFFLOADED).instances] == [True, False]


@pytest.mark.parametrize("flagged", [True, False])
def test_an_unknown_device_is_refused_with_and_without_the_flag(tmp_path, flagged):
    file = pim_file(tmp_path, [instance(tmp_path)])
    file.write_text(file.read_text().replace("device.ini", "nothing.ini"))
    with pytest.raises(InputError, match=r"nodes\[0\].cpu_mem.pim_config: '.*nothing.ini' is unknown; known"):
        load_cluster(file, replace(OFFLOADED, attn_offloading=flagged))


def test_a_memory_smaller_than_a_channel_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nodes\[0\].cpu_mem.mem_size: device has channels of 1 MiB, more"):
        pim_cluster(tmp_path, [instance(tmp_path)], channels=0.5)


def test_prefix_caching_is_refused(tmp_path):
    config = replace(OFFLOADED, scheduler=SchedulerSettings(enable_prefix_caching=True))
    expected = (
        "nodes[0].instances[0].enable_prefix_caching: true: with --enable-attn-offloading a prefix is in the"
    )
    assert message_of(tmp_path, config).startswith(expected)
    assert message_of(tmp_path, enable_prefix_caching=True).startswith(expected)


def test_data_parallel_groups_are_refused(tmp_path):
    expected = (
        "nodes[0].instances[0].dp_group: 'A': --enable-attn-offloading is not supported yet for data-parallel"
    )
    with pytest.raises(InputError) as error:
        pim_cluster(tmp_path, [moe_instance(tmp_path, dp_group="A")])
    assert str(error.value).endswith(f"{expected} groups; drop one of the two")


def test_latent_attention_is_refused(tmp_path):
    expected = "nodes[0].instances[0].model_name: deepseek-ai/DeepSeek-V2-Lite: --enable-attn-offloading has no times"
    memory = {"mem_size": 80, "mem_bw": 3350}
    assert message_of(tmp_path, model_name="deepseek-ai/DeepSeek-V2-Lite", npu_mem=memory).startswith(
        expected
    )


@pytest.mark.parametrize("place", ["npu", "cxl:0"])
def test_kv_that_is_said_to_be_elsewhere_is_refused(tmp_path, place):
    section = {"placement": {"blocks": [{"blocks": "1", "kv_loc": place}]}}
    file = pim_file(tmp_path, [instance(tmp_path, **section)])
    config = json.loads(file.read_text()) | {"cxl_mem": {"mem_size": 1, "mem_bw": 10}}
    file.write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=rf"placement: kv_loc: {place}: --enable-attn-offloading keeps KV in host"
    ):
        load_cluster(file, OFFLOADED)


def test_weights_may_be_elsewhere(tmp_path):
    placement = {"default": {"weights": "cpu", "kv_loc": "cpu"}}
    cluster = pim_cluster(tmp_path, [instance(tmp_path, placement=placement)])
    run = simulate(cluster, requests((40, 6), (30, 9)), OFFLOADED)
    assert [one.generated for one in run.requests] == [6, 9]


def test_stock_astra_sim_is_refused(tmp_path):
    with pytest.raises(InputError, match="ASTRA-Sim has no memory that computes"):
        refuse_unless_stock(pim_cluster(tmp_path, [instance(tmp_path)]), "--engine-binary")


@pytest.mark.parametrize("config", [OFFLOADED, INTERLEAVED], ids=["offloaded", "interleaved"])
@pytest.mark.parametrize("spread", [False, True], ids=["shared experts", "spread experts"])
def test_a_mixture_of_experts_keeps_its_experts_on_the_npus(tmp_path, config, spread):
    section = moe_instance(tmp_path, 2, ep_size=2 if spread else 1)
    cluster = pim_cluster(tmp_path, [section], channels=4, config=config)
    plain = make_cluster(tmp_path, [section])
    assert cluster.instances[0].memory.weight_bytes == plain.instances[0].memory.weight_bytes
    run = simulate(cluster, requests(*[(20, 12)] * 6, gap_ns=30_000), config, latency=MoeLatency())
    assert [one.generated for one in run.requests] == [12] * 6


def test_a_text_trace_has_a_section_for_each_channel(tmp_path):
    """A block's attention in memory stands between PIM 0 and PIM END; bytes of the sections are those moved."""
    seen = Submitted()
    cluster = pim_cluster(tmp_path, [instance(tmp_path)], channels=4, config=INTERLEAVED)
    simulate(cluster, requests((50, 3), (50, 3)), INTERLEAVED, [seen])
    lines = trace_text(cluster.instances[0], seen.traces[1].rows()).splitlines()
    assert int(lines[1]) == len(lines) - 3
    heads = [line.split()[:2] for line in lines if line.startswith(("BATCH", "PIM"))]
    section = [["PIM", str(channel)] for channel in range(4)] + [["PIM", "END"]]
    assert heads == [["BATCH", "0"], *section, *section, ["BATCH", "1"], *section, *section, ["BATCH", "END"]]
    rows = [line.split() for line in lines if "REMOTE:0." in line]
    assert {(row[2], row[6]) for row in rows} == {(f"REMOTE:0.{channel}",) * 2 for channel in range(4)}
    assert sum(int(row[3]) for row in rows) == 2 * 2 * (QUERY + KV)
    assert sum(int(row[7]) for row in rows) == 2 * 2 * QUERY

"""Which latency model each instance gets: by card, model, ranks, precision, bandwidth; errors name the instance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clusters import cluster_file, instance, make_cluster

from astra_sim.input_error import InputError
from inference_serving.config_builder import load_cluster
from inference_serving.latencies import open_latencies
from inference_serving.settings import SimulationConfig
from llm_profile.latency import SOURCES, LatencySource
from llm_profile.roofline import RooflineLatencyModel, open_roofline

LLAMA = {"model_name": "meta-llama/Llama-3.1-8B", "npu_mem": {"mem_size": 80, "mem_bw": 3350}}


def section(folder, npus=1, pd_type=None, **extra):
    return instance(folder, npus, pd_type, **{**LLAMA, **extra})


def opened(folder, *sections, **config):
    settings = SimulationConfig(**{"latency_source": "calibrated", **config})
    return open_latencies(make_cluster(folder, sections, settings), settings)


def q_proj_ns(latency) -> int:
    return int(latency.layer_ns("q_proj", np.array([1]))[0])


def test_every_instance_has_a_model(tmp_path):
    latencies = opened(tmp_path, section(tmp_path), section(tmp_path, 2), section(tmp_path, 4))
    assert list(latencies) == [0, 1, 2]


def test_instances_alike_share_one_model(tmp_path):
    kinds = [None, "prefill", "decode"]
    latencies = opened(tmp_path, *(section(tmp_path, pd_type=kind) for kind in kinds))
    assert latencies[0] is latencies[1] is latencies[2]


@pytest.mark.parametrize(
    "other",
    [
        {"npus": 2},
        {"hardware": "A6000"},
        {"model_name": "meta-llama/Llama-3.1-70B", "npus": 4},
        {"dtype": "fp8"},
        {"kv_cache_dtype": "fp8"},
        {"npu_mem": {"mem_size": 80, "mem_bw": 2000}},
    ],
)
def test_instances_that_differ_have_models_of_their_own(tmp_path, other):
    latencies = opened(tmp_path, section(tmp_path), section(tmp_path, **other))
    assert latencies[0] is not latencies[1]


def test_more_ranks_take_less_time_for_a_layer(tmp_path):
    one, four = opened(tmp_path, section(tmp_path, 1), section(tmp_path, 4)).values()
    assert q_proj_ns(four) < q_proj_ns(one)


def test_fewer_bits_take_less_time_for_a_layer(tmp_path):
    sixteen, eight = opened(tmp_path, section(tmp_path), section(tmp_path, dtype="fp8")).values()
    assert q_proj_ns(eight) < q_proj_ns(sixteen)


def test_the_bits_of_the_run_reach_the_model(tmp_path):
    (sixteen,) = opened(tmp_path, section(tmp_path)).values()
    (eight,) = opened(tmp_path, section(tmp_path), weight_bits=8, kv_bits=8).values()
    assert q_proj_ns(eight) < q_proj_ns(sixteen)


def test_kv_bits_reach_the_attention(tmp_path):
    none, context = np.array([], dtype=np.int64), np.array([50_000])
    wide, narrow = opened(tmp_path, section(tmp_path), section(tmp_path, kv_cache_dtype="fp8")).values()
    assert narrow.attention_ns(none, none, context) < wide.attention_ns(none, none, context)


def test_a_slower_memory_takes_longer(tmp_path):
    slow = section(tmp_path, npu_mem={"mem_size": 80, "mem_bw": 1000})
    fast_ns, slow_ns = map(q_proj_ns, opened(tmp_path, section(tmp_path), slow).values())
    assert slow_ns > 2 * fast_ns  # one token: bound by reading the weights


def test_models_say_where_their_numbers_come_from(tmp_path):
    a6000 = section(tmp_path, hardware="A6000", npu_mem={"mem_size": 80, "mem_bw": 768})
    latencies = opened(tmp_path, section(tmp_path), a6000)
    assert [one.name for one in latencies.values()] == ["calibrated:H100:packed", "calibrated:A6000:packed"]


def test_unknown_hardware_names_the_file_and_the_instance(tmp_path):
    with pytest.raises(InputError) as error:
        opened(tmp_path, section(tmp_path), section(tmp_path, hardware="ABACUS"))
    assert error.value.file == str(tmp_path / "cluster.json")
    assert error.value.field == "nodes[0].instances[1].hardware"
    assert "'ABACUS' is unknown" in error.value.message


def test_instances_are_named_by_their_place_in_their_node(tmp_path):
    file = cluster_file(tmp_path, [section(tmp_path), section(tmp_path)])
    config = json.loads(file.read_text())
    second = json.loads(json.dumps(config["nodes"][0]))
    second["instances"][1]["hardware"] = "ABACUS"
    file.write_text(json.dumps({**config, "num_nodes": 2, "nodes": [*config["nodes"], second]}))
    with pytest.raises(InputError) as error:
        open_latencies(load_cluster(file, SimulationConfig()), SimulationConfig(latency_source="calibrated"))
    assert error.value.field == "nodes[1].instances[1].hardware"


def test_a_source_without_this_card_names_the_instance(tmp_path):
    with pytest.raises(InputError) as error:
        opened(tmp_path, section(tmp_path), latency_source="tables", profile_dir=tmp_path)
    assert error.value.field == "nodes[0].instances[0].hardware"


def test_a_missing_folder_of_tables_is_named_itself(tmp_path):
    with pytest.raises(InputError) as error:
        opened(tmp_path, section(tmp_path), profile_dir=tmp_path / "nowhere")
    assert error.value.file == str(tmp_path / "nowhere")


def test_an_unknown_source_is_an_error(tmp_path):
    cluster = make_cluster(tmp_path, [section(tmp_path)])
    with pytest.raises(InputError, match="latency source: 'guess' is unknown"):
        open_latencies(cluster, SimulationConfig(latency_source="guess"))


def test_attention_prediction_needs_tables_and_names_the_instance(tmp_path):
    with pytest.raises(InputError) as caught:
        opened(tmp_path, section(tmp_path), latency_source="auto", attn_prediction=True, profile_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'cluster.json'}: nodes[0].instances[0].hardware: no latencies of")
    assert message.endswith("; the attention predictor needs tables")


class TwoExpertsARank(RooflineLatencyModel):
    """Latencies of ranks with two experts and of no others."""

    def __init__(self, query) -> None:
        vars(self).update(vars(open_roofline(query)))

    def moe_ns(self, tokens_per_expert):
        if len(tokens_per_expert) != 2:
            raise InputError("rows", "experts", f"none of {len(tokens_per_expert)}")
        return super().moe_ns(tokens_per_expert)


def test_experts_are_asked_for_as_the_ranks_have_them(tmp_path, monkeypatch):
    """Mixtral has eight experts: two on each of four ranks, all of them in shares without expert parallelism."""
    sources = {"two": LatencySource(TwoExpertsARank, lambda query: [query.hardware])}
    monkeypatch.setattr("llm_profile.latency.SOURCES", {**sources, **SOURCES})
    mixtral = {"model_name": "mistralai/Mixtral-8x7B-v0.1", "npus": 4}
    spread, split = section(tmp_path, **mixtral, ep_size=4), section(tmp_path, **mixtral)
    assert q_proj_ns(opened(tmp_path, spread, latency_source="two")[0]) > 0
    message = "rows: experts: none of 8; take another --latency-source, such as calibrated, or set ep_size "
    with pytest.raises(InputError, match=message):
        opened(tmp_path, split, latency_source="two")

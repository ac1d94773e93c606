"""Specification of the network in a cluster config: one link between any two NPUs, or a topology."""

from __future__ import annotations

import pytest
from clusters import cluster_file, instance, requests, simulate

from astra_sim.input_error import InputError
from inference_serving.config_builder import load_cluster
from inference_serving.metrics import request_metrics
from inference_serving.settings import SimulationConfig


def network(folder, npus=(4, 4), **top):
    sections = [instance(folder, count) for count in npus]
    cpu_mem = {"mem_size": 128, "mem_bw": 256, "mem_latency": 0}
    nodes = [{"num_instances": 1, "cpu_mem": cpu_mem, "instances": [section]} for section in sections]
    file = cluster_file(folder, [], **{"num_nodes": len(nodes), "nodes": nodes, **top})
    return load_cluster(file, SimulationConfig()).network


def error_of(folder, npus=(4, 4), **top):
    with pytest.raises(InputError) as caught:
        network(folder, npus, **top)
    return f"{caught.value.field}: {caught.value.message}"


def test_a_single_link_joins_every_pair_of_npus(tmp_path):
    flat = network(tmp_path, link_bw=112, link_latency=7)
    assert (flat.topology, flat.npus_count) == (("FullyConnected",), (8,))
    assert (flat.bandwidth_gbps, flat.latency_ns) == ((112,), (7,))


def test_two_links_are_those_within_and_between_nodes(tmp_path):
    nodes = network(tmp_path, link_bw=[128, 16], link_latency=[500, 20_000])
    assert (nodes.topology, nodes.npus_count) == (("FullyConnected", "FullyConnected"), (4, 2))
    assert (nodes.bandwidth_gbps, nodes.latency_ns) == ((128, 16), (500, 20_000))


def test_a_topology_names_the_wiring_and_size_of_each_dimension_and_single_values_hold_for_all(tmp_path):
    torus = network(tmp_path, topology=["Ring", "Ring", "Switch"], npus_count=[2, 2, 2], link_bw=50)
    assert (torus.topology, torus.npus_count) == (("Ring", "Ring", "Switch"), (2, 2, 2))
    assert (torus.bandwidth_gbps, torus.latency_ns) == ((50, 50, 50), (0, 0, 0))


def test_one_wiring_without_a_list_is_that_of_every_dimension(tmp_path):
    assert network(tmp_path, topology="Switch", link_bw=[64, 8]).topology == ("Switch", "Switch")
    assert network(tmp_path, topology="Ring").npus_count == (8,)


@pytest.mark.parametrize(
    ("npus", "top", "message"),
    [
        (
            (4, 4),
            {"link_bw": [1, 2], "link_latency": [1, 2, 3]},
            "link_bw: the lists differ in length (link_bw 2, link_latency 3); give one value per dimension",
        ),
        (
            (4, 4),
            {"npus_count": [4, 3], "topology": ["Ring", "Ring"]},
            "npus_count: [4, 3] is a network of 12 NPUs, but the instances have 8",
        ),
        (
            (4, 2),
            {"link_bw": [128, 16]},
            "npus_count: 2 dimensions over nodes of 4, 2 NPUs: give the NPUs of each dimension, with a product of 6",
        ),
        (
            (4, 4),
            {"link_bw": [3, 2, 1]},
            "npus_count: 3 dimensions over nodes of 4, 4 NPUs: give the NPUs of each dimension, with a product of 8",
        ),
        (
            (4, 4),
            {"topology": ["Mesh"]},
            "topology[0]: 'Mesh' is not a topology; use one of FullyConnected, Ring, Switch",
        ),
    ],
)
def test_lists_that_do_not_fit_are_errors(tmp_path, npus, top, message):
    assert error_of(tmp_path, npus, **top) == message


def test_two_prefill_ranks_of_a_node_share_the_way_to_the_other_node_when_links_are_aware(tmp_path):
    """Both prompts' KV crosses to one decode NPU; through a switch its link down takes them one by one."""
    pair = [
        instance(tmp_path, 1, "prefill"),
        instance(tmp_path, 1, "prefill"),
        instance(tmp_path, 1, "decode"),
    ]
    ends = {}
    for backend in ("unaware", "aware"):
        config = SimulationConfig(network_backend=backend)
        cluster = load_cluster(cluster_file(tmp_path, pair, topology="Switch", link_bw=0.01), config)
        simulation = simulate(cluster, requests((64, 2), (64, 2)), config)
        ends[backend] = max(request_metrics(one).latency_ns for one in simulation.finished)
    assert ends["aware"] > 1.4 * ends["unaware"]

"""What the engine is built from: the links of a network of packets, and files for stock ASTRA-Sim."""

from __future__ import annotations

import json
import re

import pytest
from clusters import cluster_file, instance, make_cluster, requests, simulate

from astra_sim import InputError, LinkSpeed, Ns3Options, cluster_links, links_of_network
from astra_sim.cli import main
from astra_sim.ns3_backend import find_executable
from inference_serving.config_builder import load_cluster
from inference_serving.engine_inputs import packet_links, write_engine_inputs
from inference_serving.settings import SimulationConfig

CPU_MEM = {"mem_size": 128, "mem_bw": 256, "mem_latency": 0}


def cluster_of_nodes(folder, npus=(4, 2), **top):
    nodes = [{"num_instances": 1, "cpu_mem": CPU_MEM, "instances": [instance(folder, n)]} for n in npus]
    file = cluster_file(folder, [], **{"num_nodes": len(nodes), "nodes": nodes, **top})
    return load_cluster(file, SimulationConfig())


def test_packets_go_through_a_switch_in_each_server_and_a_spine_that_share_the_latency_of_a_link(tmp_path):
    links = packet_links(cluster_of_nodes(tmp_path, link_bw=100, link_latency=600))
    assert links == cluster_links([4, 2], LinkSpeed(100, 300), LinkSpeed(100, 300))


def test_within_and_between_servers_packets_have_the_speeds_that_the_config_gives(tmp_path):
    links = packet_links(cluster_of_nodes(tmp_path, (2, 2), link_bw=[450, 50], link_latency=[200, 4000]))
    assert links == cluster_links([2, 2], LinkSpeed(450, 100), LinkSpeed(50, 2000))


def test_a_topology_of_the_config_is_taken_as_it_is(tmp_path):
    cluster = cluster_of_nodes(tmp_path, (4, 4), topology=["Ring", "Switch"], link_bw=[450, 50])
    assert packet_links(cluster) == links_of_network(cluster.network)


def has_ns3() -> bool:
    try:
        find_executable()
    except InputError:
        return False
    return True


@pytest.mark.skipif(not has_ns3(), reason="needs astra_ns3 (./compile.sh --ns3)")
def test_kv_that_crosses_one_link_down_takes_turns_in_packets(tmp_path):
    """Two prefill instances send the KV of a prompt each to one decode instance at the same time.

    The receiver's copy-in lane takes layer by layer; one costs its bytes on the link up and a packet more on
    the link down.
    """
    roles = ["prefill", "prefill", "decode"]
    sections = [instance(tmp_path, 1, role) for role in roles]
    ends = []
    for count in (1, 2):
        config = SimulationConfig(network_backend="ns3", ns3=Ns3Options(header_bytes=0))
        cluster = load_cluster(cluster_file(tmp_path, sections, link_bw=0.01), config)
        simulation = simulate(cluster, requests(*[(64, 2)] * count), config)
        ends.append(max(int(request.token_times_ns()[1]) for request in simulation.finished))
    layers, layer_bytes, packet_bytes = 2, 64 * 2 * 4 * 16 * 2, 4096
    turn_ns = layers * (layer_bytes + packet_bytes) / (0.01 * 2**30 / 1e9)
    assert ends[1] - ends[0] == pytest.approx(turn_ns, abs=10)


@pytest.mark.parametrize("npus", [1, 2])
def test_files_for_stock_astra_sim_carry_exact_durations_as_operations(tmp_path, capsys, npus):
    """Played as files without any attribute of ours, an iteration takes what it took in the run."""
    cluster = make_cluster(tmp_path, [instance(tmp_path, npus)])
    folder = tmp_path / "dump"

    class Dump:
        def on_submit(self, instance, trace, ticket) -> None:
            write_engine_inputs(folder, cluster, trace, "astra-sim")

        def on_iteration(self, *args) -> None:
            pass

    simulation = simulate(cluster, requests((37, 1)), observers=[Dump()])
    assert json.loads((folder / "memory_expansion.json").read_text()) == {
        "memory-type": "PER_NODE_MEMORY_EXPANSION",
        "remote-mem-latency": 0,
        "remote-mem-bw": 256,
        "num-nodes": 1,
        "num-npus-per-node": npus,
    }
    inputs = {
        "workload": "llm",
        "system": "system.json",
        "network": "network.yml",
        "remote-memory": "memory_expansion.json",
        "comm-group": "comm_group.json",
    }
    assert main([f"--{name}-configuration={folder}/{file}" for name, file in inputs.items()]) == 0
    cycles = [int(number) for number in re.findall(r"finished, (\d+) cycles", capsys.readouterr().out)]
    assert max(cycles) == simulation.finished[0].end_ns

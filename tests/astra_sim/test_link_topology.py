"""Links of networks and clusters, and ASTRA-Sim's logical topology files."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from astra_sim_builders import network

from astra_sim import (
    Link,
    LinkSpeed,
    LinkTopology,
    NetworkConfig,
    cluster_links,
    links_of_dims,
    links_of_network,
    read_logical_dims,
)
from astra_sim.input_error import InputError


def ends(topology: LinkTopology) -> list[tuple[int, int]]:
    return [(link.a, link.b) for link in topology.links]


def degrees(topology: LinkTopology) -> list[int]:
    counts = Counter(node for pair in ends(topology) for node in pair)
    return [counts[node] for node in range(topology.npus + topology.switches)]


@pytest.mark.parametrize(
    ("wiring", "npus", "pairs"),
    [
        ("Ring", 4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
        ("Ring", 2, [(0, 1)]),
        ("FullyConnected", 4, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ("Switch", 3, [(0, 3), (1, 3), (2, 3)]),
        ("Switch", 1, []),
        ("Ring", 1, []),
    ],
)
def test_one_dimension(wiring, npus, pairs):
    topology = links_of_network(network(npus, wiring))
    assert ends(topology) == pairs
    assert topology.switches == (1 if wiring == "Switch" and npus > 1 else 0)
    assert all(link[2:] == (50.0, 500.0) for link in topology.links)


def test_every_line_of_a_dimension_has_a_switch_and_the_speed_of_its_dimension():
    config = NetworkConfig(
        topology=("Switch", "Switch"), npus_count=(2, 3), bandwidth_gbps=(400, 50), latency_ns=(300, 900)
    )
    topology = links_of_network(config)
    inside = [(0, 6), (1, 6), (2, 7), (3, 7), (4, 8), (5, 8)]
    across = [(0, 9), (2, 9), (4, 9), (1, 10), (3, 10), (5, 10)]
    assert ends(topology) == inside + across
    assert {link[2:] for link in topology.links[:6]} == {(400.0, 300.0)}
    assert {link[2:] for link in topology.links[6:]} == {(50.0, 900.0)}


@pytest.mark.parametrize(
    ("wiring", "dims", "degree"),
    [("Ring", (4, 4, 4), 6), ("FullyConnected", (3, 4, 2), 6), ("Ring", (2, 2), 2)],
)
def test_each_npu_has_its_links_in_every_dimension(wiring, dims, degree):
    topology = links_of_dims(dims, wiring, bandwidth_gbps=50, latency_ns=500)
    assert set(degrees(topology)) == {degree}
    assert len(set(ends(topology))) == len(topology.links)


def test_a_cluster_with_a_card_for_each_npu():
    topology = cluster_links([3, 3], LinkSpeed(450, 300), LinkSpeed(50, 1500))
    assert (topology.npus, topology.switches) == (6, 3)
    assert degrees(topology) == [2] * 6 + [3, 3, 6]
    assert topology.links[0] == Link(0, 6, 450, 300)
    assert topology.links[-1] == Link(5, 8, 50, 1500)


def test_a_cluster_with_a_card_for_each_node():
    topology = cluster_links([4, 4], LinkSpeed(450, 300), LinkSpeed(50, 1500), "per-node")
    assert degrees(topology) == [1] * 8 + [5, 5, 2]
    assert topology.links[-1] == Link(9, 10, 50, 1500)


def test_a_cluster_of_one_node_has_no_spine():
    topology = cluster_links([4], LinkSpeed(450, 300), LinkSpeed(50, 1500))
    assert (topology.switches, len(topology.links)) == (1, 4)


def test_the_file_holds_every_digit():
    topology = links_of_network(network(2, "Ring", bandwidth_gbps=1 / 3, latency_ns=0.25))
    assert topology.text() == "npus 2 switches 0\nlink 0 1 0.3333333333333333 0.25\n"


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (Link(0, 2, 1, 0), "0 to 2: expected two different nodes of 0 to 1"),
        (Link(1, 1, 1, 0), "1 to 1: expected two different nodes"),
        (Link(0, 1, 0, 0), "0 GB/s, 0 ns: expected a bandwidth above 0"),
        (Link(0, 1, 1, -1), "1 GB/s, -1 ns: expected a bandwidth above 0 and a latency of 0 or more"),
    ],
)
def test_links_that_cannot_be_are_named(link, message):
    with pytest.raises(ValueError, match=rf"links\[0\]: {message}"):
        LinkTopology(2, 0, (link,))


@pytest.mark.parametrize("dims", [["8", "4"], [8, 4], ["8", 4]])
def test_logical_dims_are_strings_or_numbers(tmp_path, dims):
    path = tmp_path / "logical.json"
    path.write_text(json.dumps({"logical-dims": dims}))
    assert read_logical_dims(path) == (8, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "logical-dims: expected a list of NPU counts"),
        ({"logical-dims": []}, "logical-dims: expected a list"),
        ({"logical-dims": ["8", "x"]}, r"logical-dims\[1\]: 'x': expected an integer of 1 or more"),
        ({"logical-dims": [0]}, r"logical-dims\[0\]: 0: expected an integer of 1 or more"),
        ({"logical-dims": [True]}, r"logical-dims\[0\]: True: expected an integer"),
        ({"logical-dims": [2.5]}, r"logical-dims\[0\]: 2.5: expected an integer"),
        ({"logical-dims": ["8"], "dims": 1}, "dims: unknown field; expected logical-dims"),
    ],
)
def test_bad_logical_dims_are_named(tmp_path, content, message):
    path = tmp_path / "logical.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_logical_dims(path)

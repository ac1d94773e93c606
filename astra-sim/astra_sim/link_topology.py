"""Links of a network, one by one: what a network of packets needs where the analytical ones need dimensions.

The file has a first line ``npus N switches S``, then lines ``link A B GBPS LATENCY_NS``. Nodes 0 to N-1 are the NPUs,
the next S are switches; a link goes both ways, each way with the whole bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from astra_sim.input_error import InputError, read_json_object
from astra_sim.network_config import NetworkConfig, Wiring


class Link(NamedTuple):
    """A cable between two nodes; GB/s of 2**30 bytes in each direction, ns from end to end."""

    a: int
    b: int
    bandwidth_gbps: float
    latency_ns: float


class LinkSpeed(NamedTuple):
    """Bandwidth (GB/s of 2**30 bytes, each direction) and latency (ns) of links of one sort."""

    bandwidth_gbps: float
    latency_ns: float


@dataclass(frozen=True)
class LinkTopology:
    """NPUs 0 to npus-1, then switches, and the links between them.

    Among paths of equally many links a node takes the link that names it first, then the one that comes first.

    >>> print(links_of_dims([2], "Switch", bandwidth_gbps=50, latency_ns=500).text(), end="")
    npus 2 switches 1
    link 0 2 50.0 500.0
    link 1 2 50.0 500.0
    """

    npus: int
    switches: int
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        nodes = self.npus + self.switches
        for index, link in enumerate(self.links):
            if not (0 <= link.a < nodes and 0 <= link.b < nodes and link.a != link.b):
                raise ValueError(
                    f"links[{index}]: {link.a} to {link.b}: expected two different nodes of 0 to {nodes - 1}"
                )
            if not link.bandwidth_gbps > 0 or not link.latency_ns >= 0:
                raise ValueError(
                    f"links[{index}]: {link.bandwidth_gbps} GB/s, {link.latency_ns} ns: expected a bandwidth above "
                    "0 and a latency of 0 or more"
                )

    def text(self) -> str:
        """The content of a topology file."""
        lines = [f"link {a} {b} {bandwidth!r} {latency!r}" for a, b, bandwidth, latency in self.links]
        return "\n".join([f"npus {self.npus} switches {self.switches}", *lines]) + "\n"


def links_of_network(config: NetworkConfig) -> LinkTopology:
    """Wire the dimensions of a network as the analytical networks imagine them.

    NPUs whose addresses differ in one dimension only stand in a line of that dimension: a ring (two NPUs: one
    link), a full mesh, or a switch of its own with a link to each. Traffic between lines passes through NPUs.
    """
    links: list[Link] = []
    node = config.npu_total
    stride = 1
    for wiring, count, bandwidth, latency in zip(
        config.topology, config.npus_count, config.bandwidth_gbps, config.latency_ns, strict=True
    ):
        for line in _lines(config.npu_total, stride, count):
            links += [Link(a, b, float(bandwidth), float(latency)) for a, b in _pairs(wiring, line, node)]
            node += wiring == "Switch" and count > 1
        stride *= count
    return LinkTopology(config.npu_total, node - config.npu_total, tuple(links))


def links_of_dims(
    dims: Sequence[int], wiring: Wiring, bandwidth_gbps: float, latency_ns: float
) -> LinkTopology:
    """Wire every dimension in the same way; the first dimension varies fastest in NPU numbers."""
    return links_of_network(
        NetworkConfig(
            topology=(wiring,) * len(dims),
            npus_count=tuple(dims),
            bandwidth_gbps=(bandwidth_gbps,) * len(dims),
            latency_ns=(latency_ns,) * len(dims),
        )
    )


def cluster_links(
    npus_of_node: Sequence[int],
    inside: LinkSpeed,
    between: LinkSpeed,
    nics: Literal["per-npu", "per-node"] = "per-npu",
) -> LinkTopology:
    """Servers: the NPUs of one under a switch of their own (NVLink), the servers under one spine switch.

    ``inside`` is the link of an NPU to the switch of its server. ``between`` is the link of a network card to the
    spine: a card for each NPU, or one for each server, which hangs on the server's switch.
    """
    nodes, total = len(npus_of_node), sum(npus_of_node)
    spine = total + nodes
    servers = [server for server, npus in enumerate(npus_of_node) for _ in range(npus)]
    links = [Link(npu, total + server, *inside) for npu, server in enumerate(servers)]
    if nodes > 1:
        cards = range(total) if nics == "per-npu" else range(total, spine)
        links += [Link(card, spine, *between) for card in cards]
    return LinkTopology(total, nodes + (nodes > 1), tuple(links))


def read_logical_dims(path: str | Path) -> tuple[int, ...]:
    """Read ASTRA-Sim's logical topology, ``{"logical-dims": ["8", "4"]}``, strings or numbers."""
    data = read_json_object(path)
    if unknown := sorted(data.keys() - {"logical-dims"}):
        raise InputError(path, unknown[0], "unknown field; expected logical-dims")
    dims = data.get("logical-dims")
    if not isinstance(dims, list) or not dims:
        raise InputError(path, "logical-dims", 'expected a list of NPU counts, such as ["8", "4"]')
    return tuple(_count(path, index, value) for index, value in enumerate(dims))


def _count(path: str | Path, index: int, value: object) -> int:
    digits = str(value)
    if isinstance(value, str | int) and digits.isascii() and digits.isdigit() and int(digits) >= 1:
        return int(digits)
    raise InputError(path, f"logical-dims[{index}]", f"{value!r}: expected an integer of 1 or more")


def _lines(npus: int, stride: int, count: int) -> Iterator[range]:
    """The NPUs that differ in one dimension only, line by line."""
    for first in range(npus):
        if first // stride % count == 0:
            yield range(first, first + stride * count, stride)


def _pairs(wiring: Wiring, line: range, switch: int) -> list[tuple[int, int]]:
    if len(line) == 1:
        return []
    if wiring == "Switch":
        return [(npu, switch) for npu in line]
    if wiring == "FullyConnected" or len(line) == 2:
        return list(combinations(line, 2))
    return [*pairwise(line), (line[-1], line[0])]

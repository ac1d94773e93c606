"""The flags of ``python -m astra_sim`` for the network of packets."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

from astra_sim.input_error import InputError
from astra_sim.link_topology import links_of_network, read_logical_dims
from astra_sim.network_config import NetworkConfig
from astra_sim.ns3_backend import Ns3Options

_FIELD_OF_FLAG = {
    "ns3_mtu": "mtu_bytes",
    "ns3_header": "header_bytes",
    "ns3_window": "window_bdp",
    "ns3_buffer": "buffer_bytes",
}
_LOGICAL = "logical_topology_configuration"


def add_ns3_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of ``python -m astra_sim``; none of them has a default of its own."""
    add_packet_flags(group)
    group.add_argument(
        f"--{_LOGICAL.replace('_', '-')}",
        metavar="FILE",
        help='dimensions that collectives see: {"logical-dims": ["8", "4"]} (default: those of network.yml)',
    )


def add_packet_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say how packets move; none of them has a default of its own."""
    defaults = Ns3Options()
    group.add_argument(
        "--ns3-mtu", type=int, metavar="BYTES", help=f"data in a full packet (default: {defaults.mtu_bytes})"
    )
    group.add_argument(
        "--ns3-header",
        type=int,
        metavar="BYTES",
        help=f"on the wire with every packet, beside the data (default: {defaults.header_bytes})",
    )
    group.add_argument(
        "--ns3-window",
        type=float,
        metavar="K",
        help="unacknowledged data of a pair of NPUs in bandwidth-delay products (default: 0, no limit)",
    )
    group.add_argument(
        "--ns3-buffer",
        type=int,
        metavar="BYTES",
        help="packets waiting at a port of a forwarding node (default: 0, no limit and no loss)",
    )


def packet_options(options: argparse.Namespace) -> Ns3Options | None:
    """How packets move; None where another network is asked for. Raises InputError for flags without effect."""
    if options.network_backend != "ns3":
        for flag in (*_FIELD_OF_FLAG, _LOGICAL):
            if getattr(options, flag, None) is not None:
                raise InputError("", f"--{flag.replace('_', '-')}", "only with --network-backend ns3")
        return None
    given = {field: getattr(options, flag) for flag, field in _FIELD_OF_FLAG.items()}
    try:
        return Ns3Options(**{field: value for field, value in given.items() if value is not None})
    except ValueError as error:
        raise InputError("", "", str(error)) from None


def ns3_network(
    options: argparse.Namespace, network: NetworkConfig
) -> tuple[NetworkConfig, Ns3Options | None]:
    """The network that collectives see, and for ns-3 the links and how packets move on them."""
    ns3 = packet_options(options)
    if ns3 is None:
        return network, None
    path = getattr(options, _LOGICAL)
    logical = network if path is None else _logical(network, path)
    return logical, replace(ns3, links=links_of_network(network))


def _logical(network: NetworkConfig, path: str) -> NetworkConfig:
    """The same NPUs in other dimensions; speeds mean nothing there, as packets move on the links."""
    dims = read_logical_dims(path)
    if math.prod(dims) != network.npu_total:
        message = f"{math.prod(dims)} NPUs, but the network has {network.npu_total}"
        raise InputError(path, "logical-dims", message)
    return NetworkConfig(
        topology=network.topology[:1] * len(dims),
        npus_count=dims,
        bandwidth_gbps=network.bandwidth_gbps[:1] * len(dims),
        latency_ns=network.latency_ns[:1] * len(dims),
    )

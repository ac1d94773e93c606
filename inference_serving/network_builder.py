"""From the links of a cluster config to the network of the engine: one dimension, or a topology of several."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TypeVar

from astra_sim import NetworkConfig
from astra_sim.input_error import InputError
from inference_serving.cluster_schema import ClusterSection

T = TypeVar("T")
_NODE_DIMENSIONS = 2
_FIELDS = ("topology", "npus_count", "link_bw", "link_latency")


def build_network(file: Path, section: ClusterSection, npus_of_node: Sequence[int]) -> NetworkConfig:
    """The network of ``sum(npus_of_node)`` NPUs.

    Without lists: one fully connected dimension, the config's link between any two NPUs. A list in any of
    ``topology``, ``npus_count``, ``link_bw`` and ``link_latency`` gives one value per dimension, the first
    varying fastest in NPU numbers; a single value then holds for every dimension. Two dimensions without
    ``npus_count`` are within and between nodes. Raises InputError for lists that do not fit.
    """
    dimensions = _dimensions(file, section)
    counts = _npus_count(file, section, npus_of_node, dimensions)
    return NetworkConfig(
        topology=_spread(section.topology or "FullyConnected", dimensions),
        npus_count=counts,
        bandwidth_gbps=_spread(section.link_bw, dimensions),
        latency_ns=_spread(section.link_latency, dimensions),
    )


def _dimensions(file: Path, section: ClusterSection) -> int:
    lengths = {name: len(value) for name in _FIELDS if isinstance(value := getattr(section, name), list)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(
            file, next(iter(lengths)), f"the lists differ in length ({listed}); give one value per dimension"
        )
    return next(iter(lengths.values()), 1)


def _npus_count(
    file: Path, section: ClusterSection, npus_of_node: Sequence[int], dimensions: int
) -> tuple[int, ...]:
    total = sum(npus_of_node)
    if section.npus_count is not None:
        if prod(section.npus_count) != total:
            raise InputError(
                file,
                "npus_count",
                f"{section.npus_count} is a network of {prod(section.npus_count)} NPUs, but the instances have {total}",
            )
        return tuple(section.npus_count)
    if dimensions == 1:
        return (total,)
    if dimensions == _NODE_DIMENSIONS and len(set(npus_of_node)) == 1:
        return (npus_of_node[0], len(npus_of_node))
    raise InputError(
        file,
        "npus_count",
        f"{dimensions} dimensions over nodes of {', '.join(map(str, npus_of_node))} NPUs: give the NPUs of each "
        f"dimension, with a product of {total}",
    )


def _spread(value: T | list[T], dimensions: int) -> tuple[T, ...]:
    return tuple(value) if isinstance(value, list) else (value,) * dimensions

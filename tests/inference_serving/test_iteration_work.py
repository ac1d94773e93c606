"""Bytes that energy is counted for are the bytes that the engine sends."""

from __future__ import annotations

import numpy as np
import pytest

from astra_sim import CollectiveKind, Engine, Graph, NetworkConfig, Node, NodeKind, SystemConfig
from inference_serving.power.iteration_work import bytes_sent_per_byte

DATA_BYTES = 3 * 5 * 4 * 1024


@pytest.mark.parametrize("npus", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "kind",
    [
        CollectiveKind.ALL_REDUCE,
        CollectiveKind.ALL_GATHER,
        CollectiveKind.ALL_TO_ALL,
        CollectiveKind.REDUCE_SCATTER,
    ],
)
def test_the_engine_sends_what_is_counted(kind, npus):
    """In rings, and all-to-all straight to its destination: a ring would relay it, which is not counted."""
    group = tuple(range(npus))
    graph = Graph((Node(0, NodeKind.COLL, "c", size_slot=0, collective=kind, group=group),))
    network = NetworkConfig.flat("FullyConnected", npus, 50, 500)
    engine = Engine(network, SystemConfig(local_mem_bw_gbps=1600, all_to_all=("direct",)), [])
    template = engine.compile([graph] * npus)
    engine.submit(template, group, np.empty(0, np.int64), np.array([DATA_BYTES]), 0)
    assert engine.advance(None)
    counted = npus * bytes_sent_per_byte(kind, npus) * DATA_BYTES
    assert counted == pytest.approx(engine.counters.collective_bytes)

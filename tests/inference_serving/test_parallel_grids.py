"""Grids of data, tensor and expert parallelism under skewed load: nobody waits for somebody who waits for them."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from clusters import make_cluster, simulate
from moe_clusters import MoeLatency, moe_instance
from run_invariants import Watch, check_ended

from astra_sim import Graph, NodeKind
from inference_serving import controller as controllers
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import SimulationStallError

GRIDS = [(dp, tp, ep) for dp in (2, 4) for tp in (1, 2) for ep in sorted({1, tp, dp * tp}) if ep <= 8]
"""Instances of a group, NPUs of each, and ranks that share the experts."""


def skewed(count: int, members: int) -> list[RequestSpec]:
    """Round robin gives one member every long request, another some that end at once, and the last ones none."""
    shapes = [(300, 40), (5, 1)] + [(20, 2)] * (members - 2)
    return [RequestSpec(n, n // members * 40_000, *shapes[n % members]) for n in range(count)]


@pytest.mark.parametrize("routing", ["FAST", "POWERLAW"])
@pytest.mark.parametrize(("members", "npus", "ep_size"), GRIDS)
def test_waves_of_a_grid_end_however_uneven_the_load(tmp_path, members, npus, ep_size, routing):
    limits = SchedulerSettings(max_num_batched_tokens=64, max_num_seqs=3)
    config = SimulationConfig(limits, num_gpu_blocks_override=30, expert_routing_policy=routing)
    one = moe_instance(tmp_path, npus, ep_size=ep_size, dp_group="A")
    cluster = make_cluster(tmp_path, [one] * members, config)
    watch = Watch()
    simulation = simulate(cluster, skewed(5 * members, members), config, [watch], MoeLatency())
    check_ended(simulation, cluster, watch)
    busy = [instance.iterations for instance in simulation.instances.values()]
    assert max(busy) > 10 * min(busy)


def test_a_rank_that_leaves_out_a_collective_is_named_within_a_second(tmp_path, monkeypatch):
    """Two instances of two NPUs; the last rank's graph skips its first all-reduce, which its neighbour waits for."""
    whole = controllers.build_wave_graphs

    def without_one(parts):
        *others, last = whole(parts)
        skipped = next(node for node in last.nodes if node.kind is NodeKind.COLL)
        after = [
            replace(node, data_deps=skipped.data_deps) if skipped.node_id in node.data_deps else node
            for node in last.nodes
            if node is not skipped
        ]
        return [*others, Graph(tuple(after))]

    monkeypatch.setattr(controllers, "build_wave_graphs", without_one)
    one = moe_instance(tmp_path, 2, ep_size=4, dp_group="A")
    begin_s = time.perf_counter()
    with pytest.raises(SimulationStallError) as caught:
        simulate(make_cluster(tmp_path, [one] * 2), skewed(4, 2), latency=MoeLatency())
    assert time.perf_counter() - begin_s < 1
    reason = (
        r"NPU 2, node \d+ \(o_proj_7_all_reduce\) waits for NPU 3, its node \d+ \(.*\), which is another kind"
    )
    assert re.search(reason, str(caught.value))

"""Energy in closed form: a node that idles, one request, standby, hosts, collectives, host memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clusters import LinearLatency, cluster_file, instance, requests, simulate
from power_clusters import (
    ACTIVE_W,
    BASE_W,
    IDLE_W,
    RUNNING_CPU_W,
    SECOND,
    STANDBY_W,
    energy_of,
    power_block,
    powered_cluster,
)

from inference_serving.config_builder import load_cluster
from inference_serving.power.component import PowerComponent, PoweredNode, make_components, register_component
from inference_serving.power_model import PowerModel, make_power_model
from inference_serving.request_spec import RequestSpec
from inference_serving.settings import SimulationConfig

OVERHEAD_NS = SECOND // 4
IDLE_NODE_W = sum(BASE_W.values()) + IDLE_W


def at_s(arrival_s: float, prompt: int = 10, output: int = 1, request_id: int = 0) -> RequestSpec:
    return RequestSpec(
        request_id=request_id, arrival_ns=round(arrival_s * SECOND), input_tokens=prompt, output_tokens=output
    )


def iteration_ns(tokens: int, attention: int) -> int:
    """One iteration of the two-block test model for one sequence, of less than 64 tokens: only layers."""
    return 24 * (1000 + 10 * tokens) + 2 * (500 + attention) + 1010


def test_an_idle_node_draws_its_base_power(tmp_path):
    cluster = powered_cluster(tmp_path, [instance(tmp_path)])
    report = energy_of(cluster, [at_s(10)], interval_ns=10 * SECOND)
    (node,) = report.nodes
    before = dict(zip(node.parts, node.energy_j[0].tolist(), strict=True))
    assert before == pytest.approx(
        {**{part: 10 * watts for part, watts in BASE_W.items()}, "npu": 10 * IDLE_W}
    )
    assert report.power_w()[0] == pytest.approx(IDLE_NODE_W)


def test_one_request_by_hand(tmp_path):
    """An iteration of layers alone, after a step overhead: standby for the overhead, active for the layers."""
    cluster = powered_cluster(tmp_path, [instance(tmp_path)])
    report = energy_of(cluster, [at_s(0)], step_overhead_ns=OVERHEAD_NS)
    layers_s, overhead_s = iteration_ns(10, 100) / 1e9, OVERHEAD_NS / 1e9
    total_s = layers_s + overhead_s
    assert report.duration_ns == iteration_ns(10, 100) + OVERHEAD_NS
    found = report.nodes[0].by_part_j()
    assert found["npu"] == pytest.approx(STANDBY_W * overhead_s + ACTIVE_W * layers_s)
    assert found["cpu"] == pytest.approx((BASE_W["cpu"] + RUNNING_CPU_W) * total_s)
    token_ids_j = (10 + 1) * 4 * 8 * 6e-12  # ten read, one written, 4 bytes each, 6 pJ a bit
    assert found["dram"] - BASE_W["dram"] * total_s == pytest.approx(token_ids_j, rel=1e-3)
    for part in ("base_node", "link", "nic", "storage"):
        assert found[part] == pytest.approx(BASE_W[part] * total_s)


def test_the_request_has_all_that_the_idle_node_would_not_have_drawn(tmp_path):
    cluster = powered_cluster(tmp_path, [instance(tmp_path)])
    report = energy_of(cluster, [at_s(0)], step_overhead_ns=OVERHEAD_NS)
    assert report.of_request_j(0) == pytest.approx(report.total_j - IDLE_NODE_W * report.duration_ns / 1e9)


def test_an_iteration_is_split_by_tokens(tmp_path):
    """Prompts of 30 and 10 tokens in one iteration."""
    cluster = powered_cluster(tmp_path, [instance(tmp_path)])
    report = energy_of(cluster, [at_s(0, 30), at_s(0, 10, request_id=1)])
    assert report.of_request_j(0) == pytest.approx(3 * report.of_request_j(1))
    assert report.of_request_j(2) == 0


def test_requests_have_the_same_share_if_batches_are_formed_ahead(tmp_path):
    """The rows of a batch formed ahead are still there when its first request has ended before it runs."""
    workload = [at_s(0, 30, 2), at_s(0, 10, 6, request_id=1), at_s(0, 20, 4, request_id=2)]
    shares = []
    for ahead in (False, True):
        cluster = powered_cluster(tmp_path, [instance(tmp_path, async_scheduling=ahead)])
        shares.append(energy_of(cluster, workload).by_request_j[:3].tolist())
    assert shares[0] == pytest.approx(shares[1])


def test_standby_ends_after_its_duration(tmp_path):
    """Two iterations of microseconds, 10 s apart, with 2 s of standby after each."""
    cluster = powered_cluster(tmp_path, [instance(tmp_path)])
    power_w = energy_of(cluster, [at_s(0), at_s(10, request_id=1)]).power_w()
    on_standby_w = IDLE_NODE_W + STANDBY_W - IDLE_W
    assert power_w[1] == pytest.approx(on_standby_w)
    tail_s = iteration_ns(10, 100) / 1e9  # standby began this much later than the first interval
    assert power_w[2] == pytest.approx(IDLE_NODE_W + (STANDBY_W - IDLE_W) * tail_s)
    assert power_w[3:10] == pytest.approx(np.full(7, IDLE_NODE_W))
    assert len(power_w) == 11


def test_no_standby_without_a_duration(tmp_path):
    cluster = powered_cluster(tmp_path, [instance(tmp_path)], power_block(npu={"standby_duration": 0}))
    assert energy_of(cluster, [at_s(0), at_s(3, request_id=1)]).power_w()[1:3] == pytest.approx(
        np.full(2, IDLE_NODE_W)
    )


@pytest.mark.parametrize("npus", [2, 4])
def test_all_reduces_cost_energy_for_each_bit_on_a_link(tmp_path, npus):
    """Each NPU sends 2(n-1)/n of the data: 10 tokens of 64 elements of 2 bytes, after o_proj and down_proj."""
    cluster = powered_cluster(tmp_path, [instance(tmp_path, npus)], power_block(link={"idle_power": 0}))
    found = energy_of(cluster, [at_s(0)]).nodes[0].by_part_j()["link"]
    data_bytes = 10 * 64 * 2
    sent_bytes = npus * 2 * (npus - 1) / npus * data_bytes * 2 * 2  # two blocks, two all-reduces
    assert found == pytest.approx(sent_bytes * 8 * 5e-12)


def test_npus_wait_for_all_reduces_on_standby(tmp_path):
    """Both NPUs of two are active over their layers and on standby for the rest of the iteration."""
    cluster = powered_cluster(tmp_path, [instance(tmp_path, 2)])
    report = energy_of(cluster, [at_s(0)])
    total_s, layers_s = report.duration_ns / 1e9, iteration_ns(10, 100) / 1e9
    assert total_s > layers_s
    expected_j = 2 * (STANDBY_W * total_s + (ACTIVE_W - STANDBY_W) * layers_s)
    assert report.nodes[0].by_part_j()["npu"] == pytest.approx(expected_j)


@pytest.mark.parametrize(("util", "running_w"), [(0.2, 50), (0.7, 0), (0.9, 0)])
def test_the_host_is_at_least_at_70_percent_while_npus_run(tmp_path, util, running_w):
    cluster = powered_cluster(tmp_path, [instance(tmp_path)], power_block(cpu={"util": util}))
    report = energy_of(cluster, [at_s(1)])  # one second idle, then one iteration
    run_s = iteration_ns(10, 100) / 1e9
    cpu_j = report.nodes[0].energy_j[:, report.nodes[0].parts.index("cpu")]
    assert cpu_j == pytest.approx([10 + 100 * util, (10 + 100 * util + running_w) * run_s])


def test_instances_that_run_together_share_the_host(tmp_path):
    """Two requests of the same length on two instances at the same time: the host is busy once, not twice."""
    cluster = powered_cluster(tmp_path, [instance(tmp_path), instance(tmp_path)])
    report = energy_of(cluster, [at_s(0), at_s(0, request_id=1)])
    run_s = report.duration_ns / 1e9
    assert report.nodes[0].by_part_j()["cpu"] == pytest.approx(
        (BASE_W["cpu"] + RUNNING_CPU_W) * run_s, rel=1e-3
    )
    assert report.of_request_j(0) == pytest.approx(report.of_request_j(1), rel=1e-3)
    idle_j = (IDLE_NODE_W + IDLE_W) * run_s
    assert report.assigned_j == pytest.approx(report.total_j - idle_j)


def test_only_nodes_with_a_power_block_are_counted(tmp_path):
    file = cluster_file(tmp_path, [instance(tmp_path)])
    config = json.loads(file.read_text())
    (node,) = config["nodes"]
    file.write_text(json.dumps({**config, "num_nodes": 2, "nodes": [node, {**node, "power": power_block()}]}))
    cluster = load_cluster(file, SimulationConfig())
    report = energy_of(cluster, [at_s(0), at_s(0, request_id=1)])  # round robin: node 0, node 1
    assert [one.node_id for one in report.nodes] == [1]
    assert report.of_request_j(0) == 0
    assert report.of_request_j(1) > 0


def test_a_cluster_without_power_has_no_model(tmp_path):
    cluster = load_cluster(cluster_file(tmp_path, [instance(tmp_path)]), SimulationConfig())
    assert make_power_model(cluster, SECOND, 0) is None


def test_a_run_that_was_stopped_before_anything_happened_has_no_energy(tmp_path):
    report = PowerModel(powered_cluster(tmp_path, [instance(tmp_path)]), SECOND).report()
    assert (report.total_j, report.duration_ns, report.mean_power_w, len(report.power_w())) == (0, 0, 0, 0)


def test_the_model_changes_nothing(tmp_path):
    cluster = powered_cluster(tmp_path, [instance(tmp_path)])
    workload = requests((30, 5), (200, 1), (7, 12), gap_ns=30_000)
    ends = [
        [request.end_ns for request in simulate(cluster, workload, None, observers).finished]
        for observers in ([], [PowerModel(cluster, SECOND)])
    ]
    assert ends[0] == ends[1]


def test_a_new_part_is_one_class(tmp_path, monkeypatch):
    """A device that draws 7 W always, and 1 nJ for each time a layer runs for a ns on any NPU."""
    monkeypatch.setattr("inference_serving.power.component._COMPONENTS", {})

    @register_component("device")
    class Device(PowerComponent):
        def __init__(self, node):
            self.base_w = 7.0 * len(node.instances)

        def energy_per_ns(self, work):
            return 1e-9 * work.compute_runs()

    register_component("absent")(lambda node: None)
    cluster = powered_cluster(tmp_path, [instance(tmp_path, 2)])
    node = PoweredNode(cluster.nodes[0], cluster.nodes[0].power, cluster.instances)
    assert list(make_components(node)) == ["device"]
    power = PowerModel(cluster, SECOND)
    simulate(cluster, [at_s(0)], None, [power], LinearLatency())
    found = power.report()
    layers_ns = 2 * iteration_ns(10, 100)
    assert found.total_j == pytest.approx(7 * found.duration_ns / 1e9 + layers_ns * 1e-9)


def test_the_part_in_the_docs_works(tmp_path, monkeypatch):
    """5 W always, 7 W more in attention, which takes 500 ns and one for each pair of query and key."""
    page = (Path(__file__).parents[2] / "docs" / "power.md").read_text()
    monkeypatch.setattr("inference_serving.power.component._COMPONENTS", {})
    exec(page.split("```python\n")[1].split("```")[0], {})
    report = energy_of(powered_cluster(tmp_path, [instance(tmp_path)]), [at_s(0)])
    expected_j = 5 * report.duration_ns / 1e9 + 7e-9 * 2 * (500 + 10 * 10)
    assert report.nodes[0].by_part_j() == {"attention_device": pytest.approx(expected_j)}

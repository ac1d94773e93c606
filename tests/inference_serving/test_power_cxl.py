"""Power of a CXL pool: idle devices, and energy for every bit that goes there or comes from there."""

from __future__ import annotations

import json

import pytest
from clusters import instance, requests
from power_clusters import POWER as NODE
from power_clusters import energy_of, powered_file

from astra_sim.input_error import InputError
from inference_serving.config_builder import load_cluster
from inference_serving.memory_model import weight_bytes_by_place
from inference_serving.placement import Place
from inference_serving.settings import SimulationConfig

POOL = {"mem_size": 1, "mem_bw": 60, "mem_latency": 250, "num_devices": 2}
POWER = {"num_devices": 2, "idle_power": 4.5, "energy_per_bit": 11}
ON_CXL = {"blocks": [{"blocks": "0", "weights": "cxl:0"}, {"blocks": "1", "weights": "cxl:1"}]}


def cxl_cluster(folder, power, pool=POOL, npus=1):
    file = powered_file(folder, [instance(folder, npus, placement=ON_CXL)], NODE | {"cxl": power})
    config = json.loads(file.read_text()) | ({} if pool is None else {"cxl_mem": pool})
    file.write_text(json.dumps(config))
    return load_cluster(file, SimulationConfig())


@pytest.mark.parametrize("npus", [1, 2])
def test_each_iteration_loads_the_weights_that_are_there(tmp_path, npus):
    """A request of one token out is one iteration, in which every rank loads its weights from both devices."""
    cluster = cxl_cluster(tmp_path, POWER | {"idle_power": 0}, npus=npus)
    (spec,) = cluster.instances
    rank = weight_bytes_by_place(spec.model, npus, spec.precision, spec.placement)
    loaded_bytes = npus * (rank[Place("cxl", 0)] + rank[Place("cxl", 1)])
    found = energy_of(cluster, requests((10, 1))).nodes[0].by_part_j()["cxl"]
    assert found == pytest.approx(loaded_bytes * 8 * 11e-12)


def test_idle_devices_draw_their_share(tmp_path):
    cluster = cxl_cluster(tmp_path, POWER | {"energy_per_bit": 0})
    report = energy_of(cluster, requests((10, 5)))
    assert report.nodes[0].by_part_j()["cxl"] == pytest.approx(2 * 4.5 * report.duration_ns * 1e-9)


def test_power_of_a_pool_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nodes\[0\].power.cxl describes devices, but there is no cxl_mem"):
        cxl_cluster(tmp_path, POWER, pool=None)

"""What holds for every prefill policy in a whole simulation: memory, decodes and layer groups included."""

from __future__ import annotations

import pytest
from clusters import instance, make_cluster, requests, simulate

from inference_serving.policies import prefill_policy_names
from inference_serving.settings import SchedulerSettings, SimulationConfig

BATCHES = {
    "engine's": (),
    "density and layer groups": (("density", "true"), ("groups", "2"), ("chunk", "64")),
}
PROMPTS = [(900, 3), (40, 8), (30, 8), (700, 2), (50, 8), (20, 8)]


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("roles", [[None], ["prefill", "decode"]], ids=["colocated", "disaggregated"])
@pytest.mark.parametrize("name", prefill_policy_names())
def test_every_request_finishes_in_little_memory(tmp_path, name, roles, batches):
    scheduler = SchedulerSettings(max_num_batched_tokens=128, scheduling_policy=name, policy_args=batches)
    config = SimulationConfig(scheduler=scheduler)
    sections = [instance(tmp_path, pd_type=role, kv_tokens=1024) for role in roles]
    workload = requests(*PROMPTS, gap_ns=20_000)
    simulation = simulate(make_cluster(tmp_path, sections, config), workload, config)
    assert sorted(one.request_id for one in simulation.finished) == list(range(len(PROMPTS)))
    for one in simulation.finished:
        assert len(one.token_times_ns()) == one.output_tokens
    for one in simulation.instances.values():
        assert one.kv_cache.used_blocks == 0

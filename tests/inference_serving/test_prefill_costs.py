"""Predicted prefill times are what the engine then takes."""

from __future__ import annotations

import pytest
from clusters import LinearLatency, instance, make_cluster, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_serving.host_overhead import HostOverhead
from inference_serving.layer_group import layer_groups
from inference_serving.prefill_costs import PrefillCosts, SerialTimes
from inference_serving.settings import SimulationConfig

OVERHEAD = HostOverhead(step_ns=700, layer_group_ns=50)


def costs_of(cluster) -> PrefillCosts:
    return PrefillCosts(cluster.instances[0], LinearLatency(), OVERHEAD, SerialTimes(cluster).ns)


@pytest.mark.parametrize("npus", [1, 4])
def test_a_prompt_alone_takes_what_was_predicted(tmp_path, npus):
    cluster = make_cluster(tmp_path, [instance(tmp_path, npus, max_num_batched_tokens=64)])
    config = SimulationConfig(step_overhead_ns=700)
    costs = costs_of(cluster)
    (request,) = simulate(cluster, requests((150, 1)), config).finished
    predicted = [costs.batch_ns([chunk]) for chunk in ((64, 0), (64, 64), (22, 128))]
    assert request.end_ns == sum(predicted)


@pytest.mark.parametrize("npus", [1, 2])
def test_a_batch_of_prompts_takes_what_was_predicted(tmp_path, npus):
    cluster = make_cluster(tmp_path, [instance(tmp_path, npus)])
    finished = simulate(
        cluster, requests((10, 1), (33, 1), (7, 1)), SimulationConfig(step_overhead_ns=700)
    ).finished
    assert {one.end_ns for one in finished} == {costs_of(cluster).batch_ns([(10, 0), (33, 0), (7, 0)])}


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(0, 500), st.integers(1, 2))
def test_layer_groups_add_up_to_the_iteration_and_their_own_host_time(
    tmp_path_factory, tokens, context, groups
):
    folder = tmp_path_factory.mktemp("costs")
    costs = costs_of(make_cluster(folder, [instance(folder, 2)]))
    parts = [costs.group_ns(tokens, context, group, groups) for group in range(groups)]
    assert sum(parts) == costs.batch_ns([(tokens, context)]) + 50 * (groups - 1)


def test_groups_without_a_block_take_no_time(tmp_path):
    costs = costs_of(make_cluster(tmp_path, [instance(tmp_path)]))
    assert len(layer_groups(2, 5)) == 2
    assert [costs.group_ns(10, 0, group, 5) > 0 for group in range(5)] == [True, True, False, False, False]

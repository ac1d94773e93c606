"""Prefill times without the engine are those of a one-NPU instance, but for what host memory adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusters import LinearLatency, instance, make_cluster
from hypothesis import given
from hypothesis import strategies as st

from astra_sim.input_error import InputError
from inference_serving.host_overhead import HostOverhead
from inference_serving.latency_costs import LatencyCosts
from inference_serving.prefill_costs import PrefillCosts
from inference_serving.settings import SimulationConfig
from llm_profile.model_config import load_model_config

CHUNKS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 500)), min_size=1, max_size=6)
LLAMA = load_model_config("meta-llama/Llama-3.1-8B")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[LatencyCosts, PrefillCosts]:
    folder = tmp_path_factory.mktemp("costs")
    spec = make_cluster(folder, [instance(folder)]).instances[0]
    latency = LinearLatency()
    overhead = HostOverhead.of(SimulationConfig(), latency)
    return LatencyCosts(latency, spec.model), PrefillCosts(spec, latency, overhead, lambda trace: 0)


@given(chunks=CHUNKS)
def test_a_batch_takes_what_the_instance_would_predict(both, chunks):
    ours, instances = both
    assert ours.batch_ns(chunks) == instances.batch_ns(chunks)


@given(st.integers(1, 300), st.integers(0, 500), st.integers(1, 5))
def test_layer_groups_add_up_to_the_iteration(both, tokens, context, groups):
    costs = both[0]
    parts = [costs.group_ns(tokens, context, group, groups) for group in range(groups)]
    whole = costs.batch_ns([(tokens, context)])
    assert whole - groups < sum(parts) <= whole


def test_a_card_and_the_facts_of_a_model_are_enough():
    costs = LatencyCosts.of("H100", LLAMA.model_dump(), Path("config.json"))
    alone = costs.batch_ns([(512, 0)])
    assert alone < costs.batch_ns([(512, 4096)]) < costs.batch_ns([(1024, 4096)])


def test_a_card_may_be_given_by_its_description():
    facts = LLAMA.model_dump()
    card = {"name": "mine", "source": "me", "memory": {"bandwidth_gbps": 100, "size_gb": 9}}
    slow, fast = (
        LatencyCosts.of(card | {"peak_tflops": {"fp16": peak}}, facts, Path("x")) for peak in (1, 10)
    )
    assert slow.batch_ns([(512, 0)]) > 5 * fast.batch_ns([(512, 0)])
    with pytest.raises(InputError, match=r"recording: peak_tflops"):
        LatencyCosts.of(card, facts, Path("recording"))


def test_facts_that_describe_no_model_are_refused_by_name():
    facts = LLAMA.model_dump() | {"num_hidden_layers": 0}
    with pytest.raises(InputError, match=r"config\.json: num_hidden_layers"):
        LatencyCosts.of("H100", facts, Path("config.json"))


def test_an_unknown_card_is_refused():
    with pytest.raises(InputError, match="'H1000' is unknown"):
        LatencyCosts.of("H1000", LLAMA.model_dump(), Path("config.json"))

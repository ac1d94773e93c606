"""The scheduler that runs a prefill policy inside vLLM: who runs, who is paused, who is forgotten."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_stand_in import Request, modules

FACTS = {
    **{"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 4096},
    "max_position_embeddings": 8192,
}


@pytest.fixture(scope="module")
def vllm_scheduler(tmp_path_factory):
    """The module, on the stand-in; its settings come from the environment, as in vLLM's own process."""
    name = "integrations.vllm_scheduler"
    with pytest.MonkeyPatch.context() as patch:
        for module_name, module in modules().items():
            patch.setitem(sys.modules, module_name, module)
        patch.delitem(sys.modules, name, raising=False)
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text(json.dumps(FACTS))
        patch.setenv("HOL_POLICY", "srpt")
        patch.setenv("HOL_POLICY_ARGS", "chunk=96,density=true")
        patch.delenv("HOL_RECORD", raising=False)
        module = __import__(name, fromlist=["PolicyScheduler"])
        module.FOLDER = str(folder)
        yield module
    sys.modules.pop(name, None)


def config(vllm_scheduler, **more):
    settings = {"policy": "fcfs", "prefix_caching": False, "budget": 128, "seats": 32}
    model = SimpleNamespace(model=vllm_scheduler.FOLDER)
    return SimpleNamespace(model_config=model, **settings | more)


@pytest.fixture
def scheduler(vllm_scheduler):
    return vllm_scheduler.PolicyScheduler(config(vllm_scheduler))


def step(scheduler) -> dict[str, int]:
    output = scheduler.schedule()
    scheduler.update_from_output(output, None)
    return output.num_scheduled_tokens


def test_a_started_prompt_is_paused_for_a_shorter_one_and_keeps_what_it_has(scheduler):
    long, short = Request("long", 300), Request("short", 40)
    scheduler.add_request(long)
    assert step(scheduler) == {"long": 96}
    scheduler.add_request(short)
    assert step(scheduler) == {"short": 40}
    assert (long.num_computed_tokens, long in scheduler.running) == (96, True)
    assert step(scheduler) == {"short": 1, "long": 96}


def test_waiting_prompts_start_in_the_order_of_the_policy(scheduler):
    for name, prompt in (("a", 90), ("b", 50), ("c", 60)):
        scheduler.add_request(Request(name, prompt))
    assert list(step(scheduler)) == ["b", "c"]


def test_decodes_get_their_tokens_first(vllm_scheduler):
    scheduler = vllm_scheduler.PolicyScheduler(config(vllm_scheduler, budget=64))
    scheduler.add_request(Request("a", 40))
    step(scheduler)
    scheduler.add_request(Request("b", 300))
    assert step(scheduler) == {"a": 1, "b": 63}


def test_a_full_engine_admits_nobody(vllm_scheduler):
    scheduler = vllm_scheduler.PolicyScheduler(config(vllm_scheduler, seats=1))
    scheduler.add_request(Request("long", 300))
    step(scheduler)
    scheduler.add_request(Request("short", 40))
    assert step(scheduler) == {"long": 96}


def test_a_prompt_starts_only_if_it_fits_beside_all_that_started_ones_will_need(vllm_scheduler):
    scheduler = vllm_scheduler.PolicyScheduler(config(vllm_scheduler), 20)
    scheduler.add_request(Request("long", 300))
    step(scheduler)
    scheduler.add_request(Request("short", 40))
    assert step(scheduler) == {"long": 96}


def test_an_aborted_prompt_is_forgotten_whether_it_waits_runs_or_is_paused(scheduler):
    for name, prompt in (("a", 300), ("b", 250), ("c", 200)):
        scheduler.add_request(Request(name, prompt))
    assert step(scheduler) == {"c": 96}
    scheduler.finish_requests("a")
    output = scheduler.schedule()
    scheduler.finish_requests("c")
    scheduler.update_from_output(output, None)
    assert step(scheduler) == {"b": 96}
    scheduler.add_request(Request("d", 10))
    assert step(scheduler) == {"d": 10}
    scheduler.finish_requests("b")
    assert step(scheduler) == {"d": 1}


def test_a_preempted_request_starts_over(vllm_scheduler):
    scheduler = vllm_scheduler.PolicyScheduler(config(vllm_scheduler), 5)
    first, second = Request("first", 30, max_tokens=20), Request("second", 32)
    for request in (first, second):
        scheduler.add_request(request)
    steps = [step(scheduler) for _ in range(24)]
    assert {"first": 30, "second": 32} in steps[:1]
    assert any("second" not in one for one in steps)
    assert not scheduler.requests


@pytest.mark.parametrize("wrong", [{"policy": "priority"}, {"prefix_caching": True}])
def test_settings_that_do_not_go_with_a_policy_are_refused(vllm_scheduler, wrong):
    with pytest.raises(ValueError, match="PolicyScheduler needs"):
        vllm_scheduler.PolicyScheduler(config(vllm_scheduler, **wrong))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 400), st.integers(1, 6)), min_size=1, max_size=12),
    st.integers(28, 60),
    st.sampled_from(["srpt", "bounded-overtake", "arrival-order"]),
)
def test_everybody_is_served_whole_whatever_the_load(vllm_scheduler, requests, blocks, policy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOL_POLICY", policy)
        scheduler = vllm_scheduler.PolicyScheduler(config(vllm_scheduler, seats=4), blocks)
    pending = [(at, Request(f"r{number}", *rest)) for number, (at, *rest) in enumerate(requests)]
    for now in range(2000):
        for _, request in (one for one in pending if one[0] == now):
            scheduler.add_request(request)
        if now > 12 and not scheduler.requests:
            break
        tokens = step(scheduler)
        assert sum(tokens.values()) <= 128
        assert tokens or not scheduler.requests
    assert [request.output_tokens for _, request in pending] == [request.max_tokens for _, request in pending]
    assert scheduler.free_blocks == blocks
    assert not scheduler._jobs
    assert not scheduler._names
    assert not scheduler._arrivals

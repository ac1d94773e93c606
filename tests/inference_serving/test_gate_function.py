"""Expert routing: tokens are conserved (INV-17), no expert sees one twice, each policy is what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim.input_error import InputError
from inference_serving.gate_function import (
    Balanced,
    PowerLaw,
    PowerLawOptions,
    Random,
    RoundRobin,
    check_counts,
    make_expert_routing,
)
from llm_profile.model_config import load_model_config

MIXTRAL = load_model_config("mistralai/Mixtral-8x7B-v0.1")  # 8 experts, 2 a token
sizes = st.integers(1, 16).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts)))


def routing(name, experts=8, per_token=2, seed=0, **args):
    model = MIXTRAL.model_copy(update={"num_experts": experts, "num_experts_per_tok": per_token})
    return make_expert_routing(name, args, model, np.random.default_rng(seed))


@settings(max_examples=60)
@given(st.sampled_from(["FAST", "RR", "RAND", "POWERLAW"]), sizes, st.lists(st.integers(1, 300), max_size=4))
def test_every_token_goes_to_as_many_different_experts_as_the_model_says(name, size, iterations):
    dealt = routing(name, *size)
    model = MIXTRAL.model_copy(update={"num_experts": size[0], "num_experts_per_tok": size[1]})
    for tokens in iterations:
        check_counts(dealt.counts(tokens), tokens, model, dealt.draws)


@settings(max_examples=60)
@given(st.integers(0, 3), st.integers(1, 8), st.integers(1, 500))
def test_fast_gives_every_expert_and_every_rank_the_same_up_to_one(spread, per_token, tokens):
    (counts,) = routing("FAST", 8, per_token).counts(tokens)
    assert np.ptp(counts) <= 1
    assert np.ptp(counts.reshape(2**spread, -1).sum(axis=1)) <= 1


def test_round_robin_goes_on_where_the_last_iteration_ended():
    dealt = routing("RR", experts=5, per_token=1)
    assert [dealt.counts(tokens).tolist() for tokens in (3, 3, 6)] == [
        [[1, 1, 1, 0, 0]],
        [[1, 0, 0, 1, 1]],
        [[1, 2, 1, 1, 1]],
    ]


def test_random_routing_hits_as_many_experts_as_choices_without_putting_back():
    """A token reaches an expert with chance 2/16, so 10 tokens leave 16 * (14/16)**10 = 4.2 of them alone."""
    dealt = routing("RAND", experts=16)
    alone = np.mean([(dealt.counts(10) == 0).sum(axis=1) for _ in range(500)])
    assert alone == pytest.approx(16 * (14 / 16) ** 10, rel=0.03)


def test_power_law_gives_experts_their_share_by_rank():
    dealt = routing("POWERLAW", experts=4, per_token=1, skew="2")
    share = np.mean([np.sort(dealt.counts(1000), axis=1)[:, ::-1] for _ in range(50)], axis=(0, 1)) / 1000
    assert share == pytest.approx(
        np.array([1, 1 / 4, 1 / 9, 1 / 16]) / (1 + 1 / 4 + 1 / 9 + 1 / 16), abs=0.01
    )


def test_the_most_wanted_expert_gets_no_token_twice():
    dealt = routing("POWERLAW", experts=4, per_token=3, skew="10")
    counts = dealt.counts(100)
    assert counts.max() == 100
    assert counts.sum(axis=1).tolist() == [300] * dealt.draws


@pytest.mark.parametrize("name", ["RAND", "POWERLAW"])
def test_a_seed_fixes_every_draw_and_another_one_changes_them(name):
    drawn = [[routing(name, seed=seed).counts(n).tolist() for n in (5, 50)] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_class_of_ones_own_is_found_by_name_and_its_counts_are_checked():
    name = f"{Random.__module__}:{Random.__name__}"
    assert isinstance(routing("CUSTOM", **{"class": name}), Random)
    assert isinstance(routing(name), Random)
    for counts in ([[3] * 8], [[20] + [0] * 7], [[-1, 5] + [3] * 4 + [2] * 2], [20] * 8):
        with pytest.raises(InputError, match=r"counts\(10\) must be of shape \(1, 8\), each row 20 in all"):
            check_counts(np.array(counts), 10, MIXTRAL, 1)


def test_all_policies_declare_what_follows_from_the_token_count_alone():
    assert [one.repeatable for one in (Balanced, RoundRobin, Random, PowerLaw)] == [True, False, False, False]
    assert PowerLawOptions().skew == 1


def test_the_class_in_the_docs_deals_every_token():
    page = Path(__file__).parents[2] / "docs" / "moe.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    names = {"np": np}
    exec(code, names)
    dealt = names["HotFirst"](8, 2, np.random.default_rng(0))
    for tokens in (1, 2, 7, 100):
        check_counts(dealt.counts(tokens), tokens, MIXTRAL, dealt.draws)
        assert dealt.counts(tokens)[0, 0] == tokens // 2

"""Whole runs with speculative decoding: times against closed forms, what is reported, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from broken_clusters import AT, refused, runner
from clusters import (
    KV_BYTES_PER_TOKEN,
    LinearLatency,
    cluster_file,
    instance,
    make_cluster,
    requests,
    simulate,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_clusters import MoeLatency, moe_instance
from outcomes import refused as refused_flag
from run_invariants import check_invariants
from test_serving_cli import arguments, summary
from test_simulation import build, kinds, lengths, schedulers

from inference_serving import cli
from inference_serving.cluster import Role
from inference_serving.output import collect
from inference_serving.request_csv import csv_text
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.speculation.drafts import Speculation


def speculating(tokens: int, rate: float, overhead_ns: int = 0, **config: Any) -> SimulationConfig:
    scheduler = SchedulerSettings(speculation=Speculation(tokens, rate, overhead_ns))
    return SimulationConfig(scheduler=scheduler, **config)


def run(folder, workload, config, sections=None, **extra: Any):
    return simulate(make_cluster(folder, sections or [instance(folder)], config), workload, config, **extra)


# --- times


def verification_ns(tokens: int, context: int) -> int:
    """Time of an iteration of one request on the two-layer test model by hand: the head runs on every token."""
    attention = 500 + tokens * (context + tokens if tokens > 1 else 1) + (context if tokens == 1 else 0)
    layers = 2 * (11 * (1000 + 10 * tokens) + attention)
    return layers + 3 * (1000 + 10 * tokens)


def test_a_lone_request_takes_the_sum_of_its_verifications(tmp_path):
    request = run(tmp_path, requests((40, 12)), speculating(4, rate=1)).finished[0]
    first_ns = request.token_times_ns()[0]
    ends = list(accumulate([verification_ns(5, 40), verification_ns(5, 45), verification_ns(1, 50)]))
    assert (request.token_times_ns() - first_ns).tolist() == [0, *[ends[0]] * 5, *[ends[1]] * 5, ends[2]]


def test_drafting_takes_its_time_for_every_draft_token_before_each_iteration(tmp_path):
    without, with_overhead = (
        run(tmp_path, requests((40, 12)), speculating(4, 1, overhead_ns)).finished[0].token_times_ns()
        for overhead_ns in (0, 700)
    )
    assert (with_overhead - without).tolist() == [
        0,
        *[2800] * 5,
        *[5600] * 5,
        5600,
    ]  # the last needs no draft


@dataclass
class FlatLatency(LinearLatency):
    """An iteration takes 24 layers of 1000 ns and attention of 500 ns twice, however many tokens it has."""

    def layer_ns(self, layer, tokens):
        return np.full_like(tokens, 1000)

    def attention_ns(self, prefill_q, prefill_context, decode_kv):
        return 500


@pytest.mark.parametrize(
    ("tokens", "rate", "cost"), [(2, 0.5, 0.0), (4, 0.7, 0.1), (7, 0.9, 0.3), (3, 0.2, 0.5)]
)
def test_the_speedup_is_that_of_theory_where_verifying_costs_as_much_as_one_token(
    tmp_path, tokens, rate, cost
):
    """Leviathan et al. (ICML 2023), theorem 3.8; at cost 0.5 and rate 0.2 the theory has a loss."""
    iteration_ns = 26_000
    workload, roomy = requests(*[(8, 1500)] * 4), instance(tmp_path, kv_tokens=10_000)
    config = speculating(tokens, rate, round(cost * iteration_ns))
    plain, drafting = (
        [
            one.end_ns - int(one.token_times_ns()[0])
            for one in run(tmp_path, workload, used, [roomy], latency=FlatLatency()).finished
        ]
        for used in (SimulationConfig(), config)
    )
    assert plain == [1499 * iteration_ns] * 4
    expected = (1 - rate ** (tokens + 1)) / ((1 - rate) * (tokens * cost + 1))
    assert np.mean(plain) / np.mean(drafting) == pytest.approx(expected, rel=0.04)


def test_tokens_of_an_iteration_come_out_together_and_tpot_is_their_mean(tmp_path):
    result = collect_run(tmp_path, requests((40, 10)), speculating(2, 1))
    (line,) = csv_lines(result)
    gaps = json.loads(line["ITL"])
    assert [gap > 0 for gap in gaps] == [True, False, False] * 3
    assert sum(gaps) == int(line["latency"]) - int(line["TTFT"])
    assert int(line["TPOT"]) == sum(gaps) // 9


def collect_run(folder, workload, config, sections=None):
    cluster = make_cluster(folder, sections or [instance(folder)], config)
    return collect(cluster, simulate(cluster, workload, config))


def csv_lines(result) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_text(result).splitlines()))


def test_the_seed_decides_which_drafts_are_accepted(tmp_path):
    workload = requests(*[(20, 50)] * 6, gap_ns=5000)
    texts = [csv_text(collect_run(tmp_path, workload, speculating(3, 0.5, seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]  # INV-11


# --- what holds for every run


@settings(max_examples=80)
@given(
    kinds,
    lengths,
    schedulers,
    st.integers(0, 40_000),
    st.builds(Speculation, st.integers(1, 6), st.sampled_from([0.0, 0.6, 1.0]), st.sampled_from([0, 800])),
    st.booleans(),
)
def test_invariants_hold_with_drafts(npus, pairs, scheduler, gap_ns, speculation, short_of_kv):
    longest = max(prompt + output for prompt, output in pairs)
    kv_tokens = longest + 2 * scheduler.block_size if short_of_kv else 100_000
    cluster, config = build(npus, kv_tokens, replace(scheduler, speculation=speculation))
    workload = requests(*pairs, gap_ns=gap_ns)
    simulation = simulate(cluster, workload, config)
    check_invariants(simulation, workload, one_at_a_time=False)
    moved = [one for one in simulation.finished if one.decode_instance_id >= 0]
    assert simulation.counters.p2p_bytes == KV_BYTES_PER_TOKEN * sum(
        one.prompt_tokens for one in moved
    )  # INV-7


def test_of_a_pair_only_the_decode_instance_speculates(tmp_path):
    sections = [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")]
    config = speculating(3, 1)
    config = replace(config, scheduler=replace(config.scheduler, scheduling_policy="bounded-overtake"))
    simulation = run(tmp_path, requests((40, 9), (60, 9)), config, sections)
    drafts = {one.spec.role: one.scheduler.draft_statistics for one in simulation.instances.values()}
    assert drafts[Role.PREFILL] is None
    assert drafts[Role.DECODE].accepted_tokens == 2 * (3 + 2)  # 1 token, then 4, then 3 with 2 drafts


def test_ranks_of_a_data_parallel_group_speculate_each_for_itself(tmp_path):
    sections = [moe_instance(tmp_path, ep_size=2, dp_group="A") for _ in range(2)]
    workload = requests((20, 16), (30, 11), (10, 6))
    simulation = run(tmp_path, workload, speculating(4, 1), sections, latency=MoeLatency())
    check_invariants(simulation, workload, one_at_a_time=False)
    drafts = [one.scheduler.draft_statistics for one in simulation.instances.values()]
    assert [one.draft_tokens for one in drafts] == [3 * 4 + 4, 2 * 4]


def test_kv_of_a_request_that_gave_way_holds_no_draft(tmp_path):
    """What is kept elsewhere and brought back are the tokens known, so that nothing is computed twice."""
    to_cpu = {"default": {"kv_evict_loc": "cpu"}}
    sections = [instance(tmp_path, kv_tokens=112, placement=to_cpu)]
    workload = requests((40, 30), (40, 30))
    simulation = run(tmp_path, workload, speculating(6, 0.5), sections)
    check_invariants(simulation, workload, one_at_a_time=False)
    (one,) = simulation.instances.values()
    swap = one.tiers.swap_statistics
    assert swap.evicted_tokens == swap.reloaded_tokens > 0
    assert swap.evicted_tokens < one.scheduler.preemptions * 70


# --- what a run says


def test_summary_and_json_tell_what_became_of_the_drafts(tmp_path, capsys):
    flags = ["--num-speculative-tokens", "2", "--speculative-acceptance-rate", "1"]
    assert cli.main(arguments(tmp_path, *flags)) == 0
    # outputs of 5, 1, 30 and 12 tokens: 4 = 3 + 1, 29 = 9 * 3 + 2, 11 = 3 * 3 + 2 after the first
    drafts = 2 * 1 + 9 * 2 + 1 + 3 * 2 + 1
    assert summary(tmp_path)["instances"][0]["speculation"] == {
        "verifications": 15,
        "draft_tokens": drafts,
        "accepted_tokens": drafts,
        "mean_acceptance_length": pytest.approx(1 + drafts / 15),
    }
    text = capsys.readouterr().out
    for name, value in (
        ("Draft tokens:", drafts),
        ("Accepted draft tokens:", drafts),
        ("Mean acceptance length (tokens):", "2.87"),
    ):
        assert f"{name:<34}{value:>24}\n" in text


def test_without_drafts_nothing_is_said_of_them(tmp_path, capsys):
    assert cli.main(arguments(tmp_path)) == 0
    assert "speculation" not in summary(tmp_path)["instances"][0]
    assert "raft" not in capsys.readouterr().out


# --- settings of single instances


def test_an_instance_overrides_what_the_flags_say(tmp_path):
    fields = [
        {},
        {"num_speculative_tokens": 0},
        {"speculative_acceptance_rate": 0.25, "speculative_draft_overhead": 9},
        {"num_speculative_tokens": 7},
    ]
    cluster = make_cluster(tmp_path, [instance(tmp_path, **one) for one in fields], speculating(3, 0.5, 4))
    assert [spec.scheduler.speculation for spec in cluster.instances] == [
        Speculation(3, 0.5, 4),
        None,
        Speculation(3, 0.25, 9),
        Speculation(7, 0.5, 4),
    ]


def test_an_instance_may_speculate_where_the_flags_say_nothing(tmp_path):
    fields = {"num_speculative_tokens": 2, "speculative_acceptance_rate": 1}
    cluster = make_cluster(tmp_path, [instance(tmp_path, **fields), instance(tmp_path)])
    assert [spec.scheduler.speculation for spec in cluster.instances] == [Speculation(2, 1), None]


# --- what is refused

ON = {"num_speculative_tokens": 4, "speculative_acceptance_rate": 0.5}
OFF = "or set it (here, or by --num-speculative-tokens) to 0"


@pytest.mark.parametrize(
    ("fields", "flags", "message"),
    [
        (
            {"num_speculative_tokens": 4},
            "",
            "speculative_acceptance_rate: is missing; give a number from 0 to 1",
        ),
        (
            {"speculative_acceptance_rate": 0.5},
            "",
            "speculative_acceptance_rate: 0.5: there are no drafts; set num_speculative_tokens, too",
        ),
        (
            {"speculative_draft_overhead": 9},
            "",
            "speculative_draft_overhead: 9: there are no drafts; set num_speculative_tokens, too",
        ),
        (
            {**ON, "num_speculative_tokens": 0},
            "",
            "speculative_acceptance_rate: 0.5: there are no drafts; set num_speculative_tokens, too",
        ),
        (
            {**ON, "async_scheduling": True},
            "",
            "num_speculative_tokens: 4: a batch formed ahead would have to know how many drafts of the running one "
            f"are accepted, {OFF}",
        ),
        (
            ON,
            "--scheduling-policy srpt",
            "num_speculative_tokens: 4: srpt does not count with drafts; use one of fcfs, priority, " + OFF,
        ),
        (
            {**ON, "enable_prefix_caching": True},
            "--prefix-storage CPU",
            "num_speculative_tokens: 4: --prefix-storage writes chunks before it is known which drafts are in them; "
            f"drop that flag, {OFF}",
        ),
        (
            ON,
            "--enable-attn-offloading",
            "num_speculative_tokens: 4: --enable-attn-offloading runs attention in memory for one token of a request; "
            f"drop that flag, {OFF}",
        ),
    ],
)
def test_fields_that_have_no_effect_or_cannot_be_combined_are_refused(
    tmp_path, capsys, fields, flags, message
):
    file = cluster_file(tmp_path, [instance(tmp_path, **fields)])
    assert runner(tmp_path, capsys)(file, *flags.split()) == refused(file, f"{AT}.{message}")


def test_a_prefill_instance_cannot_be_told_to_speculate(tmp_path, capsys):
    file = cluster_file(tmp_path, [instance(tmp_path, 1, "prefill", **ON), instance(tmp_path, 1, "decode")])
    message = f"{AT}.num_speculative_tokens: 4: a prefill instance decodes nothing; remove the field"
    assert runner(tmp_path, capsys)(file) == refused(file, message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-speculative-tokens -1", "--num-speculative-tokens: -1: must be from 0 to 63"),
        ("--num-speculative-tokens 64", "--num-speculative-tokens: 64: must be from 0 to 63"),
        (
            "--num-speculative-tokens 4",
            "--speculative-acceptance-rate: is missing; give a number from 0 to 1",
        ),
        (
            "--num-speculative-tokens 4 --speculative-acceptance-rate 1.5",
            "--speculative-acceptance-rate: 1.5: must be from 0 to 1",
        ),
        (
            "--num-speculative-tokens 4 --speculative-acceptance-rate nan",
            "--speculative-acceptance-rate: nan: must be from 0 to 1",
        ),
        (
            "--num-speculative-tokens 4 --speculative-acceptance-rate 1 --speculative-draft-overhead -1",
            "--speculative-draft-overhead: -1: must be from 0 to 1000000000000 nanoseconds",
        ),
        (
            "--speculative-acceptance-rate 0.5",
            "--speculative-acceptance-rate: 0.5: there are no drafts; give --num-speculative-tokens, too",
        ),
        (
            "--speculative-draft-overhead 0",
            "--speculative-draft-overhead: 0: there are no drafts; give --num-speculative-tokens, too",
        ),
    ],
)
def test_wrong_flags_are_refused(tmp_path, capsys, flags, message):
    file = cluster_file(tmp_path, [instance(tmp_path)])
    assert runner(tmp_path, capsys)(file, *flags.split()) == refused_flag(message)

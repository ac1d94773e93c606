"""Layer times are asked for once, and a tally says how the simulated compute time came about."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from clusters import LinearLatency, instance, make_cluster, requests, simulate

from inference_serving.layer_times import LayerTimes
from inference_serving.output import collect
from inference_serving.trace_shape import DURATION_SLOT
from llm_profile.latency import Source


@dataclass
class Asked(LinearLatency):
    """Counts its questions; measured to 100 tokens, interpolated to 1000, attention extrapolated from 300."""

    counts: list[int] = field(default_factory=list)

    def layer_ns(self, layer, tokens):
        self.counts += tokens.tolist() if layer == "q_proj" else []
        return super().layer_ns(layer, tokens)

    def source(self, layer, tokens):
        return Source.MEASURED if tokens <= 100 else Source.INTERPOLATED

    def attention_source(self, prefill_q, prefill_context, decode_kv):
        keys = int((prefill_q + prefill_context).sum() + decode_kv.sum())
        return Source.EXTRAPOLATED if keys >= 300 else Source.INTERPOLATED


def test_no_token_count_is_asked_for_twice():
    latency = Asked()
    times = LayerTimes(latency)
    for tokens in (3, 600, 7, 5000, 600):
        assert times.of(tokens)[DURATION_SLOT["q_proj"]] == 1000 + 10 * tokens
    assert latency.counts == sorted(set(latency.counts))


def test_attention_has_no_time_of_its_own_in_the_table():
    row = LayerTimes(Asked()).of(5)
    assert np.flatnonzero(row == 0).tolist() == [DURATION_SLOT["attn"]]


def shares(tmp_path, *lengths):
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    simulation = simulate(cluster, requests(*lengths), latency=Asked())
    return collect(cluster, simulation).summary.instances[0].provenance


def test_the_time_of_a_prompt_is_shared_out_by_the_source_of_each_layer(tmp_path):
    """One iteration of 200 tokens: 2 blocks of 11 layers, attention, and three layers outside; the head is of one."""
    layer_ns, head_ns, attention_ns = 1000 + 10 * 200, 1000 + 10, 500 + 200 * 200
    total_ns = (2 * 11 + 2) * layer_ns + head_ns + 2 * attention_ns
    assert shares(tmp_path, (200, 1)) == {
        Source.MEASURED: head_ns / total_ns,
        Source.INTERPOLATED: ((2 * 11 + 2) * layer_ns + 2 * attention_ns) / total_ns,
    }


def test_attention_is_judged_by_all_the_kv_of_the_batch(tmp_path):
    few, many = shares(tmp_path, (150, 1)), shares(tmp_path, (150, 1), (150, 1))
    assert Source.EXTRAPOLATED not in few
    assert many[Source.EXTRAPOLATED] > 0
    assert sum(many.values()) == 1

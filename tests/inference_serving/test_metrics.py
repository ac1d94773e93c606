"""Latencies of requests, their distributions and the throughput, all by hand."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from clusters import instance, make_cluster, requests, simulate
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.metrics import Distribution, request_metrics, summarise, throughput
from inference_serving.request import Request


def finished(*token_times: int, arrival: int = 0, scheduled: int = 0, prompt: int = 10) -> Request:
    """A request that has got its tokens at these times."""
    return Request(
        request_id=0,
        arrival_ns=arrival,
        prompt_tokens=prompt,
        output_tokens=len(token_times),
        first_scheduled_ns=scheduled,
        end_ns=token_times[-1],
        token_time_parts=[np.array(token_times, dtype=np.int64)],
    )


def test_latencies_of_one_request_by_hand():
    metrics = request_metrics(finished(400, 600, 1000, 1003, arrival=100, scheduled=150))
    assert (metrics.queuing_delay_ns, metrics.ttft_ns, metrics.latency_ns) == (50, 300, 903)
    assert metrics.itl_ns.tolist() == [200, 400, 3]
    assert metrics.tpot_ns == (903 - 300) // 3


def test_tpot_is_cut_to_whole_nanoseconds():
    assert request_metrics(finished(100, 104, 109)).tpot_ns == 4  # 9 ns for two tokens


def test_one_output_token_has_neither_tpot_nor_itl():
    metrics = request_metrics(finished(700, arrival=100))
    assert (metrics.ttft_ns, metrics.latency_ns, metrics.tpot_ns) == (600, 600, 0)
    assert metrics.itl_ns.tolist() == []


def test_a_pause_by_preemption_is_one_long_gap():
    request = finished(100, 110, 900, 910)
    request.token_time_parts = [np.array([100, 110]), np.array([900, 910])]
    assert request_metrics(request).itl_ns.tolist() == [10, 790, 10]


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50), st.integers(0, 10**15))
def test_ttft_and_the_gaps_add_up_to_the_latency(gaps, arrival):
    metrics = request_metrics(finished(*accumulate(gaps, initial=arrival + 1), arrival=arrival))
    assert metrics.ttft_ns + int(metrics.itl_ns.sum()) == metrics.latency_ns


def iteration_ns(tokens: int, attention: int, sequences: int) -> int:
    """One iteration of the two-block test model on one NPU, of less than 64 tokens."""
    return 24 * (1000 + 10 * tokens) + 2 * (500 + attention) + 1000 + 10 * sequences


def test_latencies_of_a_tiny_run_by_hand(tmp_path):
    """The second request comes during the first one's prefill and has its own prefill beside a decode."""
    cluster = make_cluster(tmp_path, [instance(tmp_path)])
    simulation = simulate(cluster, requests((10, 3), (20, 2), gap_ns=1))
    first, second = sorted(map(request_metrics, simulation.finished), key=lambda one: one.request.request_id)
    prefill = iteration_ns(10, 10 * 10, 1)
    both = iteration_ns(21, 20 * 20 + 11, 2)
    decodes = iteration_ns(2, 21 + 12, 2)
    assert (first.queuing_delay_ns, first.ttft_ns, first.latency_ns) == (0, prefill, prefill + both + decodes)
    assert first.itl_ns.tolist() == [both, decodes]
    assert first.tpot_ns == (both + decodes) // 2
    assert (second.queuing_delay_ns, second.ttft_ns) == (prefill - 1, prefill + both - 1)
    assert second.itl_ns.tolist() == [decodes]


@pytest.mark.parametrize(
    ("values", "mean", "median", "p99"),
    [
        ([7], 7, 7, 7),
        ([10, 20], 15, 15, 19.9),  # linear between the ranks: 10 + 0.99 * 10
        ([30, 10, 20], 20, 20, 29.8),
        (list(range(101)), 50, 50, 99),
        ([0] * 100 + [1000], 1000 / 101, 0, 0),
        ([0] * 99 + [1000], 10, 0, 10),  # rank 98.01 of 0 to 99
    ],
)
def test_distributions_by_hand(values, mean, median, p99):
    result = Distribution.of(values)
    assert (result.mean_ns, result.median_ns) == (pytest.approx(mean), median)
    assert result.p99_ns == pytest.approx(p99)
    assert result.samples == len(values)


def test_a_distribution_of_nothing_is_zero():
    assert Distribution.of([]) == Distribution(0, 0, 0, 0)


def test_tpot_and_itl_leave_requests_of_one_token_out():
    group = [finished(100, 300), finished(50), finished(1000, 1100, 1200)]
    summary = summarise([request_metrics(one) for one in group])
    assert (summary.requests, summary.ttft.samples, summary.latency.samples) == (3, 3, 3)
    assert (summary.tpot.mean_ns, summary.tpot.samples) == (150, 2)


def test_itl_counts_every_gap_once_whoever_it_belongs_to():
    group = [finished(0, 100), finished(0, 10, 20, 30)]
    summary = summarise([request_metrics(one) for one in group])
    assert (summary.itl.mean_ns, summary.itl.median_ns, summary.itl.samples) == (130 / 4, 10, 4)


def test_a_summary_of_single_tokens_has_no_tpot():
    summary = summarise([request_metrics(finished(50)), request_metrics(finished(70))])
    assert summary.tpot == summary.itl == Distribution(0, 0, 0, 0)
    assert summary.ttft.mean_ns == 60


def test_throughput_is_taken_until_the_last_request_has_finished():
    group = [finished(100, 2_000_000_000, prompt=30), finished(400_000_000, arrival=7, prompt=5)]
    totals = throughput(group)
    assert (totals.requests, totals.makespan_ns) == (2, 2_000_000_000)
    assert (totals.prompt_tokens, totals.generated_tokens) == (35, 3)
    assert totals.per_second(totals.prompt_tokens) == 17.5


def test_throughput_of_nothing_is_zero():
    totals = throughput([])
    assert (totals.requests, totals.makespan_ns, totals.per_second(5)) == (0, 0, 0)

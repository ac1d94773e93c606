"""Statistics of two runs, checked against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from validation_runs import served

from inference_serving.validation.errors import (
    Value,
    by_class,
    by_load,
    compare_group,
    error_percent,
    rates,
    samples_ms,
    statistics,
)


@pytest.mark.parametrize(
    ("real", "simulated", "error"), [(200, 210, 5), (200, 150, -25), (8, 8, 0), (0, 3, None)]
)
def test_an_error_is_relative_to_the_real_value(real, simulated, error):
    assert error_percent(real, simulated) == error
    assert Value(real, simulated).error == error


def test_percentiles_lie_on_a_line_between_samples():
    assert statistics(np.arange(101.0)) == {"mean": 50, "median": 50, "p90": 90, "p95": 95, "p99": 99}
    assert statistics(np.array([0.0, 10.0])) == pytest.approx(
        {"mean": 5, "median": 5, "p90": 9, "p95": 9.5, "p99": 9.9}
    )


def test_samples_of_each_latency():
    requests = [served("0", 0, (10, 3), 5, [2, 4]), served("1", 0, (10, 1), 7, [])]
    found = {name: samples_ms(requests, name).tolist() for name in ("TTFT", "TPOT", "ITL", "latency")}
    assert found == {"TTFT": [5, 7], "TPOT": [3], "ITL": [2, 4], "latency": [11, 7]}


def pairs():
    real = [served("0", 0, (10, 3), 10, [4, 4]), served("1", 100, (600, 2), 40, [10])]
    simulated = [served("0", 0, (10, 3), 12, [4, 6]), served("1", 100, (600, 2), 30, [8])]
    return list(zip(real, simulated, strict=True))


def test_a_group_compares_every_latency():
    group = compare_group("all", pairs())
    assert (group.name, group.requests) == ("all", 2)
    ttft, tpot, itl, latency = group.metrics
    assert ttft.statistics["mean"] == Value(25, 21)
    assert ttft.statistics["mean"].error == -16
    assert ttft.paired == pytest.approx((20 + 25) / 2)
    assert tpot.statistics["mean"] == Value(7, 6.5)
    assert tpot.paired == pytest.approx((25 + 20) / 2)
    assert (itl.samples, itl.statistics["mean"], itl.paired) == ((3, 3), Value(6, 6), None)
    assert latency.statistics["median"] == Value((18 + 50) / 2, (22 + 38) / 2)


def test_without_recorded_gaps_there_is_no_itl():
    real = served("0", 0, (10, 3), 10, latency_ms=18)
    group = compare_group("all", [(real, pairs()[0][1])])
    assert [metric.name for metric in group.metrics] == ["TTFT", "TPOT", "latency"]


def test_classes_are_ranges_of_prompt_lengths():
    groups = by_class(pairs(), (512,))
    assert [(group.name, group.requests) for group in groups] == [
        ("prompts of 1-512 tokens", 1),
        ("prompts over 512 tokens", 1),
    ]
    assert groups[0].metrics[0].statistics["mean"].error == pytest.approx(20)
    assert groups[1].metrics[0].statistics["mean"].error == pytest.approx(-25)
    edges = by_class(pairs(), (10, 599, 600))
    assert [group.requests for group in edges] == [1, 0, 1, 0]
    assert edges[1].metrics == ()


def test_load_is_what_was_in_flight_in_the_real_run():
    """Request n arrives at n ms and lasts 10 ms, so n requests are ahead of it until the first one leaves."""
    real = [served(str(n), n, (5, 1), 10, []) for n in range(12)]
    simulated = [served(str(n), n, (5, 1), 10 + n, []) for n in range(12)]
    groups = by_load(list(zip(real, simulated, strict=True)))
    assert [group.name for group in groups] == [
        "0-2 requests in flight at arrival",
        "3-5 requests in flight at arrival",
        "6-8 requests in flight at arrival",
        "9-9 requests in flight at arrival",
    ]
    assert [group.metrics[0].statistics["mean"].error for group in groups] == pytest.approx([10, 40, 70, 100])


def test_rates_are_over_each_runs_own_duration():
    assert rates(pairs()) == {
        "duration (s)": Value(0.150, 0.138),
        "requests/s": Value(2 / 0.150, 2 / 0.138),
        "generated tokens/s": Value(5 / 0.150, 5 / 0.138),
        "prompt and generated tokens/s": Value(615 / 0.150, 615 / 0.138),
    }

"""Measures of a run against hand-made cases, and the bound against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.hol.measures import bound_ns, fcfs_sojourn_ns, guarantee_of, kept, measure
from evaluation.hol.plan import Point, WorkloadSpec
from evaluation.hol.store import MISSING, Finished

ENTRY = {
    "instance_id": 0,
    "role": "prefill",
    "busy_ns": 50,
    "iterations": 3,
    "preemptions": 0,
    "kv_blocks": {"capacity": 9, "peak_paused": 2},
}


def point(kind: str = "flood", args: str = "") -> Point:
    work = WorkloadSpec(kind, "0.9", "poisson", 4, 1)
    return Point(work, "h100_8b_1p2d", "RR", "some", "fcfs", args, 2048)


def table(arrivals, isolated, ttft, classes=None, instances=None, **columns):
    size = len(arrivals)
    default = dict.fromkeys(
        ("preemptions", "chunks", "pauses", "overtaken", "tpot", "input"), np.zeros(size, np.int64)
    )
    return default | {
        "request": np.arange(size),
        "arrival": np.array(arrivals),
        "isolated": np.array(isolated),
        "ttft": np.array(ttft),
        "output": np.full(size, 2),
        "bound": np.full(size, MISSING),
        "class": np.array(classes or ["short"] * size),
        "instance": np.array(instances or [0] * size),
        **columns,
    }


def rows(requests, *, kind="flood", args=""):
    summary = {"makespan_ns": 2_000_000_000, "throughput_per_s": {"requests": 2.0}, "instances": [ENTRY]}
    found = measure(point(kind, args), Finished(Path(), requests, summary, {}))
    return {row["class"]: row for row in found}


def test_virtual_fcfs_serves_one_prompt_after_the_other():
    """The second waits for the first; the third finds nobody."""
    assert fcfs_sojourn_ns(table([0, 10, 500], [100, 5, 7], [1, 1, 1])).tolist() == [100, 95, 7]


def test_virtual_fcfs_keeps_instances_apart():
    found = fcfs_sojourn_ns(table([0, 0, 0], [100, 5, 7], [1, 1, 1], instances=[0, 1, 0]))
    assert found.tolist() == [100, 5, 107]


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 300), st.integers(0, 2)), min_size=1, max_size=40)
)
def test_virtual_fcfs_is_its_definition(requests):
    arrivals, isolated, instances = (list(column) for column in zip(*requests, strict=True))
    expected, finish = {}, {}
    for index in sorted(range(len(requests)), key=lambda place: (arrivals[place], place)):
        where = instances[index]
        finish[where] = max(finish.get(where, 0), arrivals[index]) + isolated[index]
        expected[index] = finish[where] - arrivals[index]
    found = fcfs_sojourn_ns(table(arrivals, isolated, isolated, instances=instances))
    assert found.tolist() == [expected[index] for index in range(len(requests))]


def test_the_bound_adds_what_may_be_overtaken():
    assert bound_ns(table([0], [100], [1]), beta=0.5, sigma=0.25).tolist() == [200.0]


def test_a_request_is_late_only_beyond_its_bound():
    """Bounds with the defaults: (100 + 50) / 0.7 = 214.3 and (190 + 50) / 0.7 = 342.9."""
    requests = table([0, 10], [100, 100], [214, 343])
    assert rows(requests)["all"]["violations"] == 1
    assert rows(requests)["all"]["bound_use_max"] == pytest.approx(343 / (240 / 0.7))


def test_a_result_that_was_tampered_with_is_noticed():
    requests = table([0, 10], [100, 100], [214, 342])
    assert rows(requests)["all"]["violations"] == 0
    requests["ttft"][0] += 1
    assert rows(requests)["all"]["violations"] == 1


def test_promises_are_the_policys_own():
    requests = table([0, 10], [100, 100], [214, 342], bound=np.array([213, MISSING]))
    assert rows(requests)["all"]["promises_broken"] == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [("", (0.5, 0.3)), ("beta=2,sigma=0.1", (2.0, 0.1)), ("beta=1e6", (0.5, 0.3)), ("groups=4", (0.5, 0.3))],
)
def test_a_run_is_held_to_the_guarantee_that_it_gives(args, expected):
    assert guarantee_of(point(args=args)) == expected


def test_classes_are_measured_apart_and_together():
    found = rows(table([0, 0, 0], [100, 10, 10], [200, 100, 30], classes=["long", "short", "short"]))
    assert [found[name]["requests"] for name in ("short", "long", "all")] == [2, 1, 3]
    assert found["short"]["slowdown_mean"] == 6.5
    assert found["long"]["slowdown_max"] == 2.0
    assert found["all"]["slowdown_mean"] == 5.0
    assert found["all"]["jain_class_means"] == pytest.approx((6.5 + 2) ** 2 / (2 * (6.5**2 + 2**2)))
    assert found["all"]["jain_slowdown"] == pytest.approx(15**2 / (3 * (2**2 + 10**2 + 3**2)))


def test_without_longs_there_is_no_row_of_longs():
    assert list(rows(table([0], [10], [10]))) == ["short", "all"]


def test_the_first_requests_are_left_out_where_they_meet_an_empty_system():
    requests = table(list(range(40)), [10] * 40, [1000] * 2 + [10] * 38)
    assert kept(requests, 0.05).sum() == 38
    assert rows(requests, kind="long5-32k")["all"]["slowdown_max"] == 1.0
    assert rows(requests, kind="flood")["all"]["slowdown_max"] == 100.0

"""Requests of two runs find each other by id, by order, by lengths, or not at all."""

from __future__ import annotations

import pytest
from validation_runs import run_of, served

from astra_sim.input_error import InputError
from inference_serving.validation.matching import match
from inference_serving.validation.run import LeftOut

A, B, C = (10, 3), (20, 3), (10, 4)


def of(*pairs: tuple[str, tuple[int, int]], **facts):
    """A run of requests with these names and lengths, 1 ms apart."""
    requests = [served(name, at, lengths, 1, latency_ms=2) for at, (name, lengths) in enumerate(pairs)]
    return run_of(*requests, **facts)


def names(matching) -> list[tuple[str, str]]:
    return [(real.name, simulated.name) for real, simulated in matching.pairs]


def test_numbers_at_the_end_of_names_are_ids():
    matching = match(of(("bench-1", B), ("bench-0", A)), of(("0", A), ("1", B)))
    assert matching.how == "by id"
    assert names(matching) == [("bench-1", "1"), ("bench-0", "0")]
    assert [one.name for one in matching.real] == ["bench-1", "bench-0"]
    assert [one.name for one in matching.simulated] == ["1", "0"]
    assert matching.left_out == ()


@pytest.mark.parametrize("other", ["abc", "7"], ids=["no number", "twice"])
def test_without_ids_the_order_of_arrival_decides(other):
    matching = match(of(("7", A), (other, B)), of(("0", A), ("1", B)))
    assert matching.how == "by order"
    assert names(matching) == [("7", "0"), (other, "1")]


def test_in_another_order_equal_lengths_find_each_other():
    matching = match(of(("x", A), ("y", B), ("z", A)), of(("0", B), ("1", A), ("2", A)))
    assert matching.how == "by lengths"
    assert names(matching) == [("x", "1"), ("y", "0"), ("z", "2")]


def test_one_way_can_be_asked_for():
    real, simulated = of(("1", A), ("0", A)), of(("0", A), ("1", A))
    assert names(match(real, simulated)) == [("1", "1"), ("0", "0")]
    assert names(match(real, simulated, way="order")) == [("1", "0"), ("0", "1")]


def test_requests_that_failed_in_the_real_run_may_be_simulated():
    failed = (LeftOut(1, "failed in the real run"),)
    matching = match(of(("0", A), ("2", C), left_out=failed), of(("0", A), ("1", B), ("2", C)))
    assert names(matching) == [("0", "0"), ("2", "2")]
    assert matching.left_out == (*failed, LeftOut(1, "not in the real run"))


def test_partial_leaves_out_what_has_no_partner():
    matching = match(of(("0", A), ("1", B)), of(("0", A), ("5", B)), partial=True)
    assert names(matching) == [("0", "0")]
    assert matching.left_out == (LeftOut(1, "not in the simulation"), LeftOut(1, "not in the real run"))


@pytest.mark.parametrize(
    ("simulated", "way", "complaint"),
    [
        (
            (("0", A), ("1", C)),
            "auto",
            "cannot be matched by id, order or lengths: request 1 (in order of arrival) has 10 prompt and 4 output "
            "tokens, but 20 and 3 in real.jsonl; simulate the same workload",
        ),
        (
            (("0", A),),
            "auto",
            "cannot be matched by id, order or lengths: 1 simulated requests, but 2 real ones in real.jsonl; "
            "simulate the same workload, or compare what agrees with --partial",
        ),
        (
            (("0", B), ("1", A)),
            "order",
            "cannot be matched by order: request 0 (in order of arrival) has 20 prompt and 3 output tokens, but 10 "
            "and 3 in real.jsonl; simulate the same workload",
        ),
    ],
)
def test_other_workloads_are_refused(simulated, way, complaint):
    with pytest.raises(InputError) as caught:
        match(of(("0", A), ("1", B)), of(*simulated, file="sim.csv"), way=way)
    assert str(caught.value) == f"sim.csv: {complaint}"

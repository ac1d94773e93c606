"""Specification of the running table: rows in running order, and token times without work per token."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_serving.request import Request
from inference_serving.running_table import EmissionClock, RunningTable


def request(number: int = 0, prompt: int = 4, output: int = 100, **fields) -> Request:
    return Request(number, arrival_ns=0, prompt_tokens=prompt, output_tokens=output, **fields)


def table_of(*requests: Request) -> RunningTable:
    table = RunningTable()
    for one in requests:
        table.append(one)
    return table


def iterate(table: RunningTable, *grants: int, end_ns: int) -> tuple[list[int], int]:
    """Run an iteration; return the rows that finished and the tokens that came out."""
    table.grant[:] = grants
    finished, emitted = table.finish_iteration(end_ns)
    return finished.tolist(), emitted


# --- rows


def test_a_row_starts_with_what_its_request_has():
    table = table_of(request(prompt=8, output=5, computed=3, generated=2, blocks=7))
    columns = (table.computed, table.target, table.total, table.prompt, table.blocks, table.grant)
    assert [column.tolist() for column in columns] == [[3], [10], [13], [8], [7], [0]]


def test_rows_are_in_the_order_in_which_they_were_appended():
    requests = [request(number, prompt=number + 1) for number in range(3)]
    table = table_of(*requests)
    assert table.requests == requests
    assert table.prompt.tolist() == [1, 2, 3]


def test_removing_rows_keeps_the_order_of_the_others():
    table = table_of(*[request(number, prompt=number + 1) for number in range(5)])
    left = table.remove([1, 3])
    assert [one.request_id for one in left] == [1, 3]
    assert [one.request_id for one in table.requests] == [0, 2, 4]
    assert table.prompt.tolist() == [1, 3, 5]


def test_removing_no_rows_changes_nothing():
    table = table_of(request(0))
    assert table.remove([]) == []
    assert len(table) == 1


def test_a_row_that_leaves_writes_its_progress_back():
    leaving = request(prompt=4)
    table = table_of(leaving)
    iterate(table, 4, end_ns=10)
    iterate(table, 1, end_ns=20)
    table.blocks[0] = 9
    table.remove([0])
    assert (leaving.computed, leaving.generated, leaving.blocks) == (5, 2, 9)


def test_the_table_holds_any_number_of_rows():
    table = table_of(*[request(number, prompt=number + 1) for number in range(200)])
    assert len(table) == 200
    assert table.prompt.tolist() == list(range(1, 201))


def test_growing_keeps_the_rows_that_are_there():
    table = table_of(request(0, prompt=4))
    iterate(table, 3, end_ns=10)
    for number in range(1, 100):
        table.append(request(number))
    assert table.computed.tolist() == [3] + [0] * 99


def test_a_row_that_is_appended_where_one_was_removed_starts_afresh():
    table = table_of(request(0))
    iterate(table, 4, end_ns=10)
    table.remove([0])
    table.append(request(1))
    assert (table.computed.tolist(), table.since.tolist(), table.grant.tolist()) == ([0], [-1], [0])


# --- the end of an iteration


def test_a_row_that_has_not_computed_all_its_tokens_brings_no_token():
    table = table_of(request(prompt=4))
    assert iterate(table, 3, end_ns=10) == ([], 0)
    assert (table.computed.tolist(), table.target.tolist()) == ([3], [4])


def test_a_row_that_has_computed_all_its_tokens_brings_one_more():
    table = table_of(request(prompt=4))
    assert iterate(table, 4, end_ns=10) == ([], 1)
    assert (table.computed.tolist(), table.target.tolist()) == ([4], [5])


def test_a_row_without_a_grant_brings_no_token():
    table = table_of(request(0), request(1))
    iterate(table, 4, 4, end_ns=10)
    assert iterate(table, 0, 1, end_ns=20) == ([], 1)
    assert table.target.tolist() == [5, 6]


def test_rows_that_brought_their_last_token_are_reported():
    table = table_of(request(0, output=1), request(1, output=2), request(2, output=1))
    assert iterate(table, 4, 4, 4, end_ns=10) == ([0, 2], 3)


def test_rows_that_brought_a_token_can_be_asked_for():
    table = table_of(request(0), request(1), request(2))
    iterate(table, 4, 2, 4, end_ns=10)
    assert table.emitted_rows().tolist() == [0, 2]


# --- token times


def test_token_times_are_the_ends_of_the_iterations_that_brought_one():
    one = request(prompt=4)
    table = table_of(one)
    for grant, end_ns in [(2, 10), (2, 25), (1, 31), (1, 50)]:
        iterate(table, grant, end_ns=end_ns)
    table.remove([0])
    assert one.token_times_ns().tolist() == [25, 31, 50]


def test_an_iteration_that_a_row_sits_out_leaves_a_gap_in_its_token_times():
    one = request(prompt=4)
    table = table_of(one)
    for grant, end_ns in [(4, 10), (0, 20), (0, 30), (1, 40)]:
        iterate(table, grant, end_ns=end_ns)
    table.remove([0])
    assert one.token_times_ns().tolist() == [10, 40]


def test_a_request_that_leaves_and_comes_back_goes_on_with_its_token_times():
    one = request(prompt=4)
    table = table_of(one)
    iterate(table, 4, end_ns=10)
    table.remove([0])
    one.computed = 0
    table.append(one)
    iterate(table, 5, end_ns=30)
    table.remove([0])
    assert one.token_times_ns().tolist() == [10, 30]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=4, max_size=4)), max_size=60)
)
def test_token_times_are_those_that_bookkeeping_token_by_token_finds(iterations):
    """Each iteration grants up to two tokens to each of four rows, and may first move a row to the tail."""
    requests = [request(number, prompt=3) for number in range(4)]
    table = table_of(*requests)
    expected: dict[Request, list[int]] = {one: [] for one in requests}
    for number, (moved, wishes) in enumerate(iterations):
        if moved:
            (back,) = table.remove([moved])
            table.append(back)
        needs = (table.target - table.computed).tolist()
        grants = [min(wish, need) for wish, need in zip(wishes, needs, strict=True)]
        for one, grant, need in zip(table.requests, grants, needs, strict=True):
            if grant == need:
                expected[one].append(7 * number)
        iterate(table, *grants, end_ns=7 * number)
    table.remove([0, 1, 2, 3])
    assert {one: one.token_times_ns().tolist() for one in requests} == expected


# --- the clock


def test_the_clock_tells_the_ends_of_iterations_by_their_numbers():
    clock = EmissionClock()
    for end_ns in (10, 25, 31, 50):
        clock.append(end_ns)
    assert clock.count == 4
    assert clock.times_ns(1, 3).tolist() == [25, 31]
    assert clock.times_ns(2, 2).tolist() == []


def test_the_clock_keeps_the_numbers_of_iterations_when_it_forgets_early_ones():
    clock = EmissionClock()
    for number in range(10_000):
        clock.append(3 * number)
    clock.forget_before(9_000)
    clock.append(77)
    assert clock.count == 10_001
    assert clock.times_ns(9_000, 9_002).tolist() == [27_000, 27_003]
    assert clock.times_ns(10_000, 10_001).tolist() == [77]


def test_a_clock_that_forgets_takes_no_more_memory_the_longer_it_runs():
    clock, sizes = EmissionClock(), []
    for number in range(60_000):
        clock.append(number)
        clock.forget_before(clock.count)
        if number % 1000 == 0:
            sizes.append(len(pickle.dumps(clock)))
    assert max(sizes[30:]) <= 1.1 * max(sizes[:30])


@pytest.mark.parametrize("since", [0, 5_000])
def test_trimming_keeps_the_times_of_requests_that_are_still_emitting(since):
    one = request(prompt=1, output=100_000)
    table = RunningTable()
    for number in range(since):
        table.finish_iteration(number)
    table.append(one)
    for number in range(since, 10_000):
        iterate(table, 1, end_ns=number)
        table.trim_clock()
    table.remove([0])
    assert one.token_times_ns().tolist() == list(range(since, 10_000))


def test_trimming_forgets_everything_when_no_request_emits():
    table = RunningTable()
    for number in range(10_000):
        table.finish_iteration(number)
    before = len(pickle.dumps(table.clock))
    table.trim_clock()
    assert len(pickle.dumps(table.clock)) < before / 100

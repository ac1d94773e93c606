"""Specification of the waiting queue: always in the policy's order, and preempted requests keep their place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_serving.policies import make_policy
from inference_serving.request import Request
from inference_serving.waiting_queue import WaitingQueue


def request(number: int, priority: int = 0) -> Request:
    return Request(number, arrival_ns=0, prompt_tokens=4, output_tokens=4, priority=priority)


def queue_of(*requests: Request, policy: str = "fcfs") -> WaitingQueue:
    queue = WaitingQueue(make_policy(policy))
    for one in requests:
        queue.add(one)
    return queue


def numbers(queue: WaitingQueue) -> list[int]:
    return [one.request_id for one in queue]


class AllAlike:
    """A policy that prefers nobody."""

    def waiting_key(self, request: Request) -> tuple[int, ...]:
        return ()

    def victim(self, running) -> int:
        return 0


def test_a_new_queue_is_empty():
    queue = queue_of()
    assert (len(queue), numbers(queue)) == (0, [])


def test_requests_wait_in_the_order_in_which_they_reached_the_instance():
    assert numbers(queue_of(request(7), request(3), request(5))) == [7, 3, 5]


def test_the_policy_decides_the_order():
    queue = queue_of(
        request(0, priority=2), request(1, priority=0), request(2, priority=1), policy="priority"
    )
    assert numbers(queue) == [1, 2, 0]


def test_where_the_policy_sees_no_difference_the_order_of_arrival_decides():
    queue = WaitingQueue(AllAlike())
    for number in (7, 3, 5):
        queue.add(request(number))
    assert numbers(queue) == [7, 3, 5]


def test_any_place_can_be_looked_at_and_taken_out():
    queue = queue_of(request(0), request(1), request(2))
    assert queue[1].request_id == 1
    assert queue.pop(1).request_id == 1
    assert (len(queue), numbers(queue)) == (2, [0, 2])


def test_under_fcfs_a_preempted_request_goes_back_to_the_head():
    queue = queue_of(request(0), request(1), request(2))
    first = queue.pop(0)
    queue.put_back(first)
    assert numbers(queue) == [0, 1, 2]


def test_under_priority_a_preempted_request_goes_back_behind_more_urgent_ones():
    queue = queue_of(request(0, priority=5), policy="priority")
    preempted = queue.pop(0)
    queue.add(request(1, priority=9))
    queue.add(request(2, priority=1))
    queue.put_back(preempted)
    assert numbers(queue) == [2, 0, 1]


def test_a_request_from_another_instance_queues_behind_those_that_are_here():
    mover = request(0)
    queue_of(request(8), mover)  # the second at its prefill instance
    assert numbers(queue_of(request(1), request(2), request(3), mover)) == [1, 2, 3, 0]


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 29), max_size=30), st.booleans())
def test_requests_that_come_and_go_are_always_in_the_policys_order(priorities, preempted, by_priority):
    queue = queue_of(
        *[request(number, priority) for number, priority in enumerate(priorities)],
        policy="priority" if by_priority else "fcfs",
    )
    order = sorted(range(len(priorities)), key=lambda n: (priorities[n] * by_priority, n))
    running = [queue.pop(index) for index in preempted if index < len(queue)]
    for one in running:
        queue.put_back(one)
    assert numbers(queue) == order

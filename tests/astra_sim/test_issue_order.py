"""Which node starts when: units, ascending ids, data and control dependencies, tickets on one NPU."""

from __future__ import annotations

from astra_sim_builders import all_reduce, comp, drain, engine, load, message_ns, numbers, recv, run, send

from astra_sim import Completion, Graph, MemoryConfig, Node, NodeKind
from astra_sim.stall_doctor import BlockedNode


def test_a_chain_takes_the_sum_of_its_durations():
    assert run(engine(1), [[comp(0, slot=0), comp(1, 0, slot=1), comp(2, 1, slot=0)]], [70, 400]) == 540


def test_a_duration_of_zero_becomes_one_ns():
    assert run(engine(1), [[comp(0), comp(1, 0)]], [0]) == 2


def test_independent_compute_nodes_take_turns_on_the_gpu():
    assert run(engine(1), [[comp(0), comp(1), comp(2)]], [100]) == 300


def test_ready_nodes_start_in_ascending_id_not_in_file_order():
    graph = [comp(30, slot=1, part=3), comp(10, slot=0, part=1), comp(20, slot=0, part=2)]
    target = engine(1)
    target.submit(target.compile([Graph(tuple(graph))]), [0], numbers(100, 7), numbers(), 0)
    assert [(done.part, done.finish_ns) for done in drain(target)] == [(1, 100), (2, 200), (3, 207)]


def test_control_dependencies_hold_a_node_back_like_data_dependencies():
    node = Node(2, NodeKind.COMP, data_deps=(0,), ctrl_deps=(1,), duration_slot=0)
    assert run(engine(1), [[comp(0), comp(1), node]], [100]) == 300


def test_cpu_gpu_and_communication_run_side_by_side():
    flight = message_ns(1 << 20, 2)
    nodes = [comp(0, slot=0), comp(1, slot=0, is_cpu_op=True), send(2, 1)]
    target = engine(2)
    assert run(target, [nodes, [recv(0, 0)]], [flight], [1 << 20]) == flight
    stats = target.npu_stats(0)
    assert (stats.compute_ns, stats.cpu_ns, stats.communication_ns) == (flight, flight, flight)


def test_a_load_and_a_collective_share_the_communication_unit():
    memory = MemoryConfig(memory_type="PER_NPU_MEMORY_EXPANSION", latency_ns=1000, bandwidth_gbps=100)
    alone = run(engine(2), [[all_reduce(0)]] * 2, sizes=[1 << 20])
    both = run(engine(2, memories=[memory]), [[all_reduce(0), load(1, slot=1)]] * 2, sizes=[1 << 20, 5000])
    assert both == alone + 1000 + 50


def test_an_earlier_ticket_goes_first_on_one_npu():
    target = engine(1)
    work = target.compile([Graph((comp(0), comp(1, 0)))])
    for duration in (100, 7):
        target.submit(work, [0], numbers(duration), numbers(), 0)
    # The second ticket's first node gets the GPU only when the first ticket has nothing ready.
    assert drain(target) == [Completion(0, 0, 200), Completion(1, 0, 214)]


def test_sends_of_an_earlier_ticket_fly_while_the_next_one_computes():
    target = engine(2)
    prefill = target.compile(
        [Graph((comp(0), send(1, 1, 0, part=1, copy_engine=True))), Graph((recv(0, 0, part=1),))]
    )
    decode = target.compile([Graph((comp(0),))])
    target.submit(prefill, [0, 1], numbers(100), numbers(1 << 20), 0)
    assert target.advance() == [Completion(0, 0, 100)]
    target.submit(decode, [0], numbers(300), numbers(), 100)
    assert target.advance() == [Completion(1, 0, 400)]
    assert target.advance() == [Completion(0, 1, 100 + message_ns(1 << 20, 2))]


def test_messages_of_different_tickets_do_not_meet():
    target = engine(2)
    sender = target.compile([Graph((send(0, 1),)), Graph(())])
    receiver = target.compile([Graph(()), Graph((recv(7, 0, tag=0),))])
    target.submit(sender, [0, 1], numbers(), numbers(100), 0)
    lost = target.submit(receiver, [0, 1], numbers(), numbers(100), 0)
    assert [done.ticket for done in drain(target)] == [0]
    cause = "waits for 100 bytes with tag 0 from NPU 0, which has no such send left"
    assert target.stall_report() == [BlockedNode(1, 7, "recv7", cause, None)]
    assert (lost, target.tickets_active) == (1, 1)


def test_roofline_takes_the_slower_of_memory_and_compute():
    system = {"roofline_enabled": True, "local_mem_bw_gbps": 1000, "peak_perf_tflops": 100}
    node = Node(0, NodeKind.COMP, size_slot=0, ops_slot=1)
    assert run(engine(1, **system), [[node]], sizes=[2_000_000, 1]) == 2000
    assert run(engine(1, **system), [[node]], sizes=[1, 500_000_000]) == 5000


def test_replay_only_gives_every_node_its_duration():
    nodes = [
        comp(0),
        Node(1, NodeKind.COLL, data_deps=(0,), duration_slot=1),
        Node(2, NodeKind.RECV, duration_slot=0),
    ]
    assert run(engine(1, replay_only=True), [nodes], [100, 30]) == 130

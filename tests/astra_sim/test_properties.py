"""Properties that hold for any graphs: causality, conservation, determinism."""

from __future__ import annotations

from astra_sim_builders import all_reduce, engine, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim import Completion, Engine, Graph, Node, NodeKind

NPUS = 4


@st.composite
def submissions(draw, kinds=("comp", "message", "all_reduce")):
    """Graphs that can always finish, with numbers and a start time."""
    graphs: list[list[Node]] = [[] for _ in range(NPUS)]
    for node_id in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(kinds))
        deps = tuple(draw(st.sets(st.integers(0, node_id - 1), max_size=2))) if node_id else ()
        if kind == "all_reduce":
            group = draw(st.sampled_from([(), (0, 1), (3, 1, 2)]))
            for npu in group or range(NPUS):
                # a chain of collectives, so that all members issue them in one order
                order = tuple(n.node_id for n in graphs[npu] if n.kind == NodeKind.COLL)
                graphs[npu].append(all_reduce(node_id, *order, group=group, part=node_id % 2))
        elif kind == "message":
            source, target = draw(st.permutations(range(NPUS)))[:2]
            copy = draw(st.booleans())
            graphs[source].append(
                Node(node_id, NodeKind.SEND, size_slot=1, peer=target, tag=node_id, copy_engine=copy)
            )
            graphs[target].append(Node(node_id, NodeKind.RECV, size_slot=1, peer=source, tag=node_id))
        else:
            npu = draw(st.integers(0, NPUS - 1))
            known = {node.node_id for node in graphs[npu]}
            parents = tuple(dep for dep in deps if dep in known)
            graphs[npu].append(
                Node(node_id, NodeKind.COMP, data_deps=parents, duration_slot=0, part=node_id % 2)
            )
    values = st.integers(0, 1_000_000)
    return (
        [Graph(tuple(g)) for g in graphs],
        draw(values),
        draw(values),
        draw(values),
        draw(st.integers(0, 5000)),
    )


@st.composite
def workloads(draw):
    """Up to three tickets, of which one has collectives: two of them could wait for each other for ever."""
    others = st.lists(submissions(kinds=("comp", "message")), max_size=2)
    return [draw(submissions()), *draw(others)]


def simulate(workload) -> tuple[list[Completion], Engine]:
    target = engine(NPUS, "Ring", preferred_dataset_splits=2)
    for graphs, duration, size, message, at_ns in workload:
        template = target.compile(graphs)
        target.submit(template, range(NPUS), numbers(duration), numbers(size, message), at_ns)
    completions = []
    while done := target.advance():
        completions += done
    return completions, target


@given(workloads())
@settings(max_examples=60)
def test_everything_finishes_in_order_and_nothing_is_left(workload):
    completions, target = simulate(workload)
    times = [done.finish_ns for done in completions]
    assert times == sorted(times)
    for done in completions:
        assert done.finish_ns >= workload[done.ticket][4]
    parts = {(ticket, node.part) for ticket, w in enumerate(workload) for g in w[0] for node in g.nodes}
    assert sorted((done.ticket, done.part) for done in completions) == sorted(parts)
    assert target.stall_report() == []
    assert target.counters.nodes_finished == sum(len(g.nodes) for w in workload for g in w[0])
    assert target.tickets_active == 0


@given(workloads())
@settings(max_examples=30)
def test_bytes_are_conserved(workload):
    _, target = simulate(workload)
    expected_p2p = expected_collective = 0
    for graphs, _, size, message, _ in workload:
        nodes = [node for graph in graphs for node in graph.nodes]
        expected_p2p += message * sum(node.kind == NodeKind.SEND for node in nodes)
        chunk = max(size // 2, NPUS)
        streams = -(-max(size, 2 * chunk) // chunk)
        for node in nodes:
            if node.kind == NodeKind.COLL:
                n = len(node.group) or NPUS
                expected_collective += streams * 2 * (n - 1) * (chunk // n)
    assert target.p2p_bytes == expected_p2p
    assert target.collective_bytes == expected_collective


@given(workloads())
@settings(max_examples=30)
def test_the_same_input_gives_the_same_completions(workload):
    first, one = simulate(workload)
    second, two = simulate(workload)
    assert first == second
    assert one.counters == two.counters
    assert [one.npu_stats(npu) for npu in range(NPUS)] == [two.npu_stats(npu) for npu in range(NPUS)]


@given(submissions(), st.integers(1, 3000))
@settings(max_examples=30)
def test_stopping_on_the_way_changes_nothing(submission, step):
    graphs, duration, size, message, _ = submission
    target = engine(NPUS, "Ring", preferred_dataset_splits=2)
    target.submit(target.compile(graphs), range(NPUS), numbers(duration), numbers(size, message), 0)
    completions: list[Completion] = []
    while target.tickets_active and len(completions) < 100 and target.now_ns < 200 * step:
        before = target.now_ns
        completions += target.advance(before + step)
        assert target.now_ns >= before
    while done := target.advance():
        completions += done
    assert completions == simulate([(graphs, duration, size, message, 0)])[0]

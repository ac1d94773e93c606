"""Chakra trace files: what is written is read back, in both dialects."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from astra_sim_builders import all_reduce, comp, drain, engine, numbers, recv, send
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_sim import (
    CollectiveKind,
    EtRecord,
    Graph,
    InputError,
    Node,
    NodeKind,
    chakra_pb2,
    read_et,
    read_graphs,
    write_et,
    write_graphs,
)

NPUS = 3
NUMBER = st.integers(0, 2**53)
DIALECTS = ("chakra", "kaist")


@st.composite
def nodes(draw, npu: int, node_id: int) -> Node:
    kind = draw(st.sampled_from(list(NodeKind)))
    common = {
        "node_id": node_id,
        "kind": kind,
        "name": draw(st.text(max_size=8)),
        "data_deps": tuple(draw(st.lists(st.integers(0, 2**60), max_size=3))),
        "ctrl_deps": tuple(draw(st.lists(st.integers(0, 2**60), max_size=2))),
        "duration_slot": draw(st.none() | st.integers(0, 1)),
        "size_slot": draw(st.none() | st.integers(0, 2)),
        "ops_slot": draw(st.none() | st.integers(0, 2)),
        "priority": draw(st.integers(0, 9)),
        "is_cpu_op": draw(st.booleans()),
        "memory": draw(st.integers(0, 3)),
        "part": draw(st.integers(0, 3)),
    }
    if kind == NodeKind.COLL:
        common["collective"] = draw(st.sampled_from(list(CollectiveKind)))
        common["group"] = draw(st.sampled_from([(), (0, 1), (2, 0, 1)]))
        common["involved_dims"] = tuple(draw(st.lists(st.booleans(), max_size=4)))
    if kind in (NodeKind.SEND, NodeKind.RECV):
        common["peer"] = draw(st.sampled_from([other for other in range(NPUS) if other != npu]))
        common["tag"] = draw(st.integers(0, 2**32 - 1))
        common["copy_engine"] = draw(st.booleans())
    return Node(**common)


@st.composite
def workloads(draw):
    graphs = [
        Graph(tuple(draw(nodes(npu, node_id)) for node_id in range(draw(st.integers(0, 4)))))
        for npu in range(NPUS)
    ]
    return graphs, numbers(draw(NUMBER), draw(NUMBER)), numbers(draw(NUMBER), draw(NUMBER), draw(NUMBER))


def resolved(graphs, durations_ns, sizes):
    """The graphs with numbers in place of slots: what they mean, however the slots are numbered."""

    def fill(node: Node) -> Node:
        return replace(
            node,
            duration_slot=None if node.duration_slot is None else int(durations_ns[node.duration_slot]),
            size_slot=None if node.size_slot is None else int(sizes[node.size_slot]),
            ops_slot=None if node.ops_slot is None else int(sizes[node.ops_slot]),
        )

    return [Graph(tuple(map(fill, graph.nodes))) for graph in graphs]


@pytest.mark.parametrize("dialect", DIALECTS)
@given(workloads())
@settings(max_examples=100)
def test_written_graphs_are_read_back_exactly(dialect, workload):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "trace"
        groups = write_graphs(prefix, *workload, dialect=dialect)
        back = read_graphs(prefix, NPUS, groups, dialect)
        assert resolved(*back) == resolved(*workload)
        first = [Path(f"{prefix}.{npu}.et").read_bytes() for npu in range(NPUS)]
        assert write_graphs(prefix, *back, dialect=dialect) == groups
        assert [Path(f"{prefix}.{npu}.et").read_bytes() for npu in range(NPUS)] == first


def test_equal_numbers_share_a_slot(tmp_path):
    write_graphs(
        tmp_path / "t", [Graph((comp(0), comp(1, slot=1), comp(2, slot=2)))], numbers(5, 5, 7), numbers()
    )
    graphs, durations, sizes = read_graphs(tmp_path / "t", 1)
    assert [node.duration_slot for node in graphs[0].nodes] == [0, 0, 1]
    assert (durations.tolist(), sizes.tolist()) == ([5, 7], [])


def test_a_trace_runs_as_the_graphs_it_was_written_from(tmp_path):
    graphs = [Graph((comp(0), send(1, 1, 0), all_reduce(2, 1))), Graph((recv(0, 0), all_reduce(1)))]
    numbers_of = numbers(12_345), numbers(1 << 20)
    groups = write_graphs(tmp_path / "t", graphs, *numbers_of)
    results = []
    for g, durations, sizes in ((graphs, *numbers_of), read_graphs(tmp_path / "t", 2, groups)):
        target = engine(2)
        target.submit(target.compile(g), [0, 1], durations, sizes, 0)
        results.append(drain(target))
    assert results[0] == results[1]


def test_positions_become_npu_numbers_and_other_npus_get_empty_traces(tmp_path):
    graphs = [
        Graph((send(0, 1), all_reduce(1, group=(1, 0)))),
        Graph((recv(0, 0), all_reduce(1, group=(1, 0)))),
    ]
    groups = write_graphs(tmp_path / "t", graphs, numbers(), numbers(9), npus=[2, 3], npu_count=4)
    assert groups == {"1": (3, 2)}
    assert read_et(tmp_path / "t.0.et") == read_et(tmp_path / "t.1.et") == []
    attributes = read_et(tmp_path / "t.2.et")[0].attributes
    assert (attributes["comm_src"], attributes["comm_dst"]) == (2, 3)


@pytest.mark.parametrize(("dialect", "micros"), [("chakra", 13), ("kaist", 12_345)])
def test_durations_are_rounded_up_for_readers_that_know_only_microseconds(tmp_path, dialect, micros):
    write_et(tmp_path / "t.et", [EtRecord(0, NodeKind.COMP, duration_ns=12_345)], dialect)
    data = (tmp_path / "t.et").read_bytes()
    message = chakra_pb2.Node.FromString(data[data[0] + 2 :])
    assert message.duration_micros == micros
    assert message.type == {"chakra": 4, "kaist": 5}[dialect]
    assert read_et(tmp_path / "t.et", dialect)[0].duration_ns == 12_345


@pytest.mark.parametrize(("dialect", "duration_ns"), [("chakra", 7000), ("kaist", 7)])
def test_foreign_files_give_every_node_its_duration(tmp_path, dialect, duration_ns):
    frames = [chakra_pb2.GlobalMetadata(version="0.0.4"), chakra_pb2.Node(id=1, type=4, duration_micros=7)]
    raw = [frame.SerializeToString() for frame in frames]
    (tmp_path / "t.et").write_bytes(b"".join(bytes([len(frame)]) + frame for frame in raw))
    assert read_et(tmp_path / "t.et", dialect) == [EtRecord(1, NodeKind.COMP, duration_ns=duration_ns)]


def test_kaist_tensor_loc_chooses_the_memory(tmp_path):
    for location, memory in ((2, 0), (3, 1)):
        attributes = {"tensor_size": 5, "tensor_loc": location}
        write_et(tmp_path / "t.0.et", [EtRecord(0, NodeKind.MEM_LOAD, attributes=attributes)], "kaist")
        assert read_graphs(tmp_path / "t", 1, dialect="kaist")[0][0].nodes[0].memory == memory


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (EtRecord(4, NodeKind.SEND, "s"), "node 4 (s): comm_dst is missing"),
        (EtRecord(4, NodeKind.RECV, attributes={"comm_src": 1}), "node 4: comm_tag is missing"),
        (
            EtRecord(4, NodeKind.SEND, attributes={"comm_dst": 9}),
            "node 4: comm_dst is 9; the network has NPUs 0 to 1",
        ),
        (
            EtRecord(4, NodeKind.SEND, attributes={"comm_src": 1}),
            "node 4: comm_src is 1, but the trace is that of NPU 0",
        ),
        (EtRecord(4, NodeKind.COLL, "c"), "node 4 (c): comm_type is missing"),
        (
            EtRecord(4, NodeKind.COLL, attributes={"comm_type": 1}),
            "node 4: comm_type 1 is not supported; there are: ",
        ),
        (
            EtRecord(4, NodeKind.COLL, attributes={"comm_type": 0, "pg_name": "7"}),
            "pg_name '7' is not a communicator group; there are: 1",
        ),
        (
            EtRecord(4, NodeKind.COMP, attributes={"num_ops": 1.5}),
            "num_ops must be an integer, 0 or above, not 1.5",
        ),
        (EtRecord(4, 1), "METADATA nodes are not executed"),
        (EtRecord(4, 9), "node type 9 is not one of Chakra's"),
    ],
)
def test_a_bad_node_is_named_with_its_file(tmp_path, record, message):
    write_et(tmp_path / "t.0.et", [record])
    write_et(tmp_path / "t.1.et", [])
    with pytest.raises(InputError) as error:
        read_graphs(tmp_path / "t", 2, {"1": (0, 1)})
    assert str(error.value).startswith(f"{tmp_path}/t.0.et: ")
    assert message in str(error.value)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.et: no such file"):
        read_et(tmp_path / "none.et")
    (tmp_path / "cut.et").write_bytes(b"\x50abc")
    with pytest.raises(InputError, match=r"cut\.et: byte 1: not a Chakra trace: the file is cut or damaged"):
        read_et(tmp_path / "cut.et")
    (tmp_path / "odd.et").write_bytes(b"\x03\xff\xff\xff")
    with pytest.raises(InputError, match=r"odd\.et: not a Chakra trace"):
        read_et(tmp_path / "odd.et")

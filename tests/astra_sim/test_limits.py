"""Numbers that no simulation can hold, and strings that no file can: a clear error, never a wrong clock."""

from __future__ import annotations

import json

import pytest
from astra_sim_builders import (
    Dim,
    all_reduce,
    comp,
    engine,
    load,
    mesh,
    message_ns,
    numbers,
    recv,
    run,
    send,
)

from astra_sim import (
    EtRecord,
    Graph,
    InputError,
    MemoryConfig,
    NetworkConfig,
    Node,
    NodeKind,
    SystemConfig,
    read_graphs,
    read_memories,
    read_network,
    read_system,
    write_et,
    write_graphs,
    write_network,
    write_system,
)
from astra_sim.cli import main

MOST = 1 << 53
LONG_DELAY = "a delay of more than 2\\^60 ns"


def arguments(folder) -> list[str]:
    return [
        f"--workload-configuration={folder}/t",
        f"--system-configuration={folder}/system.json",
        f"--network-configuration={folder}/network.yml",
    ]


@pytest.fixture
def case(tmp_path):
    """A case of two NPUs that send and receive."""
    write_network(tmp_path / "network.yml", NetworkConfig.flat("Ring", 2, 50, 500))
    write_system(tmp_path / "system.json", SystemConfig(local_mem_bw_gbps=1600))
    graphs = [Graph((send(0, 1), all_reduce(1, 0))), Graph((recv(0, 0), all_reduce(1, 0)))]
    write_graphs(tmp_path / "t", graphs, numbers(), numbers(1000))
    return tmp_path


# Time


def test_the_longest_duration_is_simulated():
    assert run(engine(1), [[comp(0), comp(1, 0)]], [MOST]) == 2 * MOST


@pytest.mark.parametrize("number", [MOST + 1, (1 << 63) - 1])
def test_a_longer_duration_is_refused(number):
    with pytest.raises(ValueError, match=f"durations_ns must not be above 2\\^53: {number}"):
        run(engine(1), [[comp(0)]], [number])


def test_a_larger_size_is_refused():
    with pytest.raises(ValueError, match="sizes must not be above 2\\^53"):
        run(engine(2), [[send(0, 1)], [recv(0, 0)]], [], [MOST + 1])


def test_the_largest_message_takes_its_time():
    assert run(engine(2, "Ring"), [[send(0, 1)], [recv(0, 0)]], [], [MOST]) == message_ns(MOST)


def test_the_clock_stops_before_it_wraps():
    """600 durations of 2^53 ns do not fit below 2^62."""
    nodes = [comp(0)] + [comp(i, i - 1) for i in range(1, 600)]
    with pytest.raises(ValueError, match="the clock would pass 2\\^62 ns"):
        run(engine(1), [nodes], [MOST])


@pytest.mark.parametrize("backend", ["unaware", "aware"])
def test_a_link_so_slow_that_a_message_never_lands_is_refused(backend):
    with pytest.raises(ValueError, match=LONG_DELAY):
        run(mesh(Dim("Ring", 2, 1e-300), backend=backend), [[send(0, 1)], [recv(0, 0)]], [], [1 << 20])


@pytest.mark.parametrize("backend", ["unaware", "aware"])
def test_a_latency_of_ages_is_refused(backend):
    with pytest.raises(ValueError, match=LONG_DELAY):
        run(mesh(Dim("Ring", 2, 50, 1e300), backend=backend), [[send(0, 1)], [recv(0, 0)]], [], [1])


def test_a_reduction_of_ages_is_refused():
    with pytest.raises(ValueError, match=LONG_DELAY):
        run(engine(2, local_mem_bw_gbps=1e-300), [[all_reduce(0)]] * 2, [], [1 << 20])


def test_a_roofline_of_ages_is_refused():
    system = {"roofline_enabled": True, "peak_perf_tflops": 1e-300}
    node = Node(0, NodeKind.COMP, ops_slot=0, size_slot=0)
    with pytest.raises(ValueError, match=LONG_DELAY):
        run(engine(1, **system), [[node]], [], [1 << 20])


def test_a_memory_access_of_ages_is_refused():
    memory = MemoryConfig(memory_type="MEMORY_POOL", bandwidth_gbps=1e-300)
    with pytest.raises(ValueError, match=LONG_DELAY):
        run(engine(1, memories=[memory]), [[load(0)]], [], [1 << 20])


# Traces


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (EtRecord(0, 4, duration_ns=MOST + 1), f"a duration of {MOST + 1} ns; it must be from 0 to 2^53"),
        (
            EtRecord(0, 4, attributes={"tensor_size": 1 << 63}),
            "tensor_size is 9223372036854775808; numbers above",
        ),
        (
            EtRecord(0, 5, attributes={"comm_dst": 1, "comm_tag": (1 << 64) - 1}),
            "comm_tag is 18446744073709551615; numbers above 2^53 are not simulated",
        ),
    ],
)
def test_a_number_of_a_trace_that_is_too_large_is_named(tmp_path, record, message):
    write_et(tmp_path / "t.0.et", [record])
    write_et(tmp_path / "t.1.et", [])
    with pytest.raises(InputError) as error:
        read_graphs(tmp_path / "t", 2)
    assert f"{tmp_path}/t.0.et: node 0: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (EtRecord(1 << 63, 4, duration_ns=1), "node_id"),
        (EtRecord(0, 4, data_deps=(1 << 63,), duration_ns=1), "data_deps"),
        (EtRecord(0, 4, ctrl_deps=((1 << 64) - 1,), duration_ns=1), "ctrl_deps"),
        (EtRecord(0, 2, attributes={"tensor_size": 1, "memory": 1 << 31}), "memory"),
    ],
)
def test_an_id_that_does_not_fit_is_an_error(case, capsys, record, field):
    write_et(case / "t.0.et", [record])
    assert main(arguments(case)) == 2
    assert capsys.readouterr().err.startswith(f"error: a node's {field} is out of range or of a wrong type: ")


def test_the_largest_id_is_simulated(case, capsys):
    write_et(case / "t.0.et", [EtRecord((1 << 63) - 1, 4, duration_ns=7)])
    write_et(case / "t.1.et", [])
    assert main(arguments(case)) == 0
    assert "sys[0] finished, 7 cycles" in capsys.readouterr().out


def test_a_name_that_is_no_text_is_an_error():
    with pytest.raises(ValueError, match="a node's name is out of range or of a wrong type"):
        engine(1).compile([Graph((Node(0, NodeKind.COMP, "\udc80", duration_slot=0),))])


def test_a_name_may_hold_a_zero():
    target = engine(2)
    node = Node(0, NodeKind.RECV, "a\0b", peer=1, size_slot=0)
    target.submit(target.compile([Graph((node,)), Graph(())]), [0, 1], numbers(), numbers(1), 0)
    assert target.advance() == []
    assert target.stall_report()[0].name == "a\0b"


# Configuration


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint-delay", 1 << 60),
        ("endpoint-delay", float("inf")),
        ("active-chunks-per-dimension", 1 << 40),
        ("preferred-dataset-splits", 1 << 40),
    ],
)
def test_a_number_of_the_system_that_is_too_large_is_named(tmp_path, key, value):
    data = {"scheduling-policy": "LIFO", "preferred-dataset-splits": 1} | {key: value}
    (tmp_path / "system.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"system.json: {key}: "):
        read_system(tmp_path / "system.json")


@pytest.mark.parametrize("value", [1 << 60, float("inf")])
def test_a_latency_of_a_memory_that_is_too_large_is_named(tmp_path, value):
    data = {"memory-type": "MEMORY_POOL", "remote-mem-latency": value, "remote-mem-bw": 100}
    (tmp_path / "memory.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"memory\.json: mem-latency: "):
        read_memories(tmp_path / "memory.json")


def test_more_npus_than_can_be_numbered_are_refused(tmp_path):
    (tmp_path / "n.yml").write_text(
        "topology: [Ring, Ring]\nnpus_count: [100000, 100000]\nbandwidth: [1, 1]\nlatency: [1, 1]"
    )
    with pytest.raises(InputError, match="npus_count makes 10000000000 NPUs; at most 65536 are simulated"):
        read_network(tmp_path / "n.yml")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_an_error(tmp_path, text):
    (tmp_path / "system.json").write_text(text)
    with pytest.raises(InputError, match=r"system\.json: "):
        read_system(tmp_path / "system.json")


@pytest.mark.parametrize("scale", ["-1", "nan", "inf", "1e300", "x"])
def test_a_wrong_injection_scale_is_refused(case, capsys, scale):
    with pytest.raises(SystemExit) as error:
        main([*arguments(case), f"--injection-scale={scale}"])
    assert error.value.code == 2
    assert "--injection-scale" in capsys.readouterr().err


def test_an_injection_scale_that_makes_the_delay_too_long_is_refused(case, capsys):
    write_system(case / "system.json", SystemConfig(endpoint_delay_ns=1 << 50, local_mem_bw_gbps=1600))
    assert main([*arguments(case), "--injection-scale=100"]) == 2
    assert "error: --injection-scale: an endpoint-delay of" in capsys.readouterr().err

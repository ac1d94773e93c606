"""The network behind a pipe, played by a process with the unaware network's delays: nothing may differ."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from astra_sim_builders import all_reduce, collective, comp, drain, network, numbers, recv, run, send

from astra_sim import (
    CollectiveKind,
    Engine,
    EngineOptions,
    Graph,
    NetworkConfig,
    Ns3Options,
    SystemConfig,
    write_graphs,
    write_network,
    write_system,
)
from astra_sim.cli import main
from astra_sim.input_error import InputError
from astra_sim.ns3_backend import ENVIRONMENT_VARIABLE, NetworkProcess, find_executable, start_ns3


def system(dimensions: int) -> SystemConfig:
    rings = dict.fromkeys(
        ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), ("ring",) * dimensions
    )
    return SystemConfig(
        local_mem_bw_gbps=1600, preferred_dataset_splits=4, active_chunks_per_dimension=2, **rings
    )


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put the fake network in the place of astra_ns3; returns a function that makes an engine on it."""
    program = tmp_path / "fake"
    script = Path(__file__).parent / "fake_network.py"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S -E '{script}' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(program))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "requests"))

    def make(config=None, fault="", **options):
        config = config or network(2)
        columns = (config.topology, config.npus_count, config.bandwidth_gbps, config.latency_ns)
        monkeypatch.setenv("FAKE_NETWORK", json.dumps(list(zip(*columns, strict=True))))
        monkeypatch.setenv("FAKE_FAULT", fault)
        return Engine(
            config, system(len(columns[0])), options=EngineOptions("ns3", ns3=Ns3Options(**options))
        )

    make.program = program
    make.requests = lambda: [
        tuple(map(int, line.split())) for line in (tmp_path / "requests").read_text().splitlines()
    ]
    return make


def grid(*npus: int, wiring: str = "Ring") -> NetworkConfig:
    count = len(npus)
    return NetworkConfig(
        topology=(wiring,) * count,
        npus_count=npus,
        bandwidth_gbps=(50.0,) * count,
        latency_ns=tuple(500.0 * (d + 1) for d in range(count)),
    )


def everything(engine: Engine) -> list[object]:
    npus = [engine.npu_stats(npu) for npu in range(engine.npu_count)]
    return [drain(engine), engine.now_ns, engine.counters, npus, engine.stall_report()]


def random_graphs(seed: int, npus: int) -> list[Graph]:
    """Compute, messages and collectives whose ends often fall on the same ns."""
    chance = np.random.default_rng(seed)
    nodes: list[list[object]] = [[] for _ in range(npus)]
    for step in range(30):
        if chance.random() < 0.3:
            for npu in range(npus):
                nodes[npu].append(all_reduce(step, *([step - 1] if step % 3 == 0 and step else ()), slot=1))
            continue
        source, destination = (int(npu) for npu in chance.permutation(npus)[:2])
        slot = int(chance.integers(3))
        copy = bool(chance.random() < 0.3)
        nodes[source].append(send(step, destination, slot=slot, tag=step, copy_engine=copy))
        nodes[destination].append(recv(step, source, slot=slot, tag=step))
        for npu in set(range(npus)) - {source, destination}:
            nodes[npu].append(comp(step, slot=int(chance.integers(3))))
    return [Graph(tuple(graph)) for graph in nodes]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "config", [network(4), grid(4), grid(2, 3), grid(2, 2, 2, wiring="Switch")], ids=repr
)
def test_every_result_is_the_one_of_the_unaware_network(fake, config, seed):
    results = []
    for target in (Engine(config, system(len(config.topology))), fake(config)):
        template = target.compile(random_graphs(seed, config.npu_total))
        for start in (0, 7_000):
            target.submit(
                template,
                range(config.npu_total),
                numbers(1000, 20_000, 3),
                numbers(1 << 20, 4096, 0),
                target.now_ns + start,
            )
            results.append([target.advance(target.now_ns + 100), target.now_ns, *everything(target)])
    assert results[:2] == results[2:]


@pytest.mark.parametrize(
    "kind", sorted(set(CollectiveKind) - {CollectiveKind.BROADCAST})
)  # that one is replayed
def test_collectives_end_as_on_the_unaware_network(fake, kind):
    graphs = [[collective(0, kind)]] * 8
    expected = run(Engine(grid(2, 4), system(2)), graphs, sizes=[1 << 20])
    assert run(fake(grid(2, 4)), graphs, sizes=[1 << 20]) == expected


def test_the_clock_goes_no_further_than_asked(fake):
    target = fake()
    template = target.compile([Graph((send(0, 1),)), Graph((recv(0, 0),))])
    target.submit(template, [0, 1], numbers(), numbers(1 << 20), 0)
    for until in (1, 500, 20_000):
        assert target.advance(until) == []
        assert target.now_ns == until
    (done,) = target.advance()
    assert done.finish_ns == int(1000 + (1 << 20) / (50 * 2**30 / 1e9))


def test_two_landings_in_one_tick_complete_together(fake):
    target = fake(network(4))
    template = target.compile([Graph((send(0, 1),)), Graph((recv(0, 0),))])
    for npus in ([0, 1], [2, 3]):
        target.submit(template, npus, numbers(), numbers(1 << 20), 0)
    assert [done.ticket for done in target.advance()] == [0, 1]


def test_nothing_is_asked_while_no_message_is_under_way(fake):
    target = fake()
    run(target, [[comp(step) for step in range(50)]] * 2, [100])
    assert fake.requests() == [(2, 0, 0, 0, 0, 0)]  # is anybody there?


def test_a_message_and_its_landing_are_two_requests(fake):
    target = fake()
    assert run(target, [[comp(0), send(1, 1, 0)], [recv(0, 0)]], [300], [0]) == 1300
    _, message, question, *_ = fake.requests()
    assert message == (1, 0, 0, 1, 0, 300)
    assert question[0] == 2
    assert len(fake.requests()) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gone", "the network process has ended; its own message says why"),
        ("early", "the network process reports time -1, asked for 0 to "),
        ("late", "the network process reports time 10001, asked for 0 to 10000"),
        ("unknown", "the network process reports message 77, which is not under way"),
    ],
)
def test_a_process_that_fails_is_an_error_and_no_hang(fake, fault, message):
    target = fake(fault=fault)
    template = target.compile([Graph((send(0, 1),)), Graph((recv(0, 0),))])
    target.submit(template, [0, 1], numbers(), numbers(1 << 20), 0)
    with pytest.raises(RuntimeError, match=message):
        target.advance(10_000)


def test_a_process_that_ends_at_once_is_an_error_of_the_engine(fake, capfd):
    with pytest.raises(RuntimeError, match="the network process has ended"):
        fake(fault="silent")
    assert "told to fail" in capfd.readouterr().err


def test_the_process_ends_with_its_engine(fake, monkeypatch):
    started: list[NetworkProcess] = []

    def start(*arguments):
        started.append(start_ns3(*arguments))
        return started[0]

    monkeypatch.setattr("astra_sim.engine.start_ns3", start)
    target = fake()
    os.kill(started[0].pid, 0)
    del target
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_a_missing_executable_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(
        InputError, match=r"ASTRA_NS3: '.*nothing' is no program; .*libns3-dev.*compile.sh --ns3"
    ):
        Engine(network(2), system(1), options=EngineOptions("ns3"))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("astra_sim.ns3_backend.__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(
        InputError, match=r"network backend ns3: astra_ns3 is not built; install ns-3 .*libns3-dev"
    ):
        find_executable()


def test_the_executable_of_the_build_folder_comes_before_the_path(monkeypatch, tmp_path):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    for folder in ("build/ns3", "bin"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "astra_ns3").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("astra_sim.ns3_backend.__file__", str(tmp_path / "astra-sim" / "astra_sim" / "x.py"))
    assert find_executable() == tmp_path / "build" / "ns3" / "astra_ns3"
    (tmp_path / "build" / "ns3" / "astra_ns3").unlink()
    assert find_executable() == tmp_path / "bin" / "astra_ns3"


def test_a_file_that_cannot_run_is_an_input_error(monkeypatch, tmp_path):
    program = tmp_path / "astra_ns3"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(program))
    with pytest.raises(InputError, match="cannot be started: Exec format error"):
        Engine(network(2), system(1), options=EngineOptions("ns3"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mtu_bytes": 0}, "ns3 mtu: 0: expected an integer from 1 to 16777216"),
        ({"header_bytes": -1}, "ns3 header: -1: expected an integer from 0"),
        ({"window_bdp": float("nan")}, "ns3 window: nan: expected a number from 0 to 1000000"),
        ({"buffer_bytes": 4000}, "ns3 buffer: 4000: smaller than one packet of 4096 [+] 82 bytes"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Ns3Options(**options)


def test_options_need_the_backend():
    with pytest.raises(ValueError, match="ns3 options are for backend 'ns3', not 'unaware'"):
        Engine(network(2), system(1), options=EngineOptions(ns3=Ns3Options()))


@pytest.fixture
def command(tmp_path):
    """The command line on a case of four NPUs; returns a function that takes more flags."""
    write_network(tmp_path / "network.yml", network(4))
    write_system(tmp_path / "system.json", system(1))
    write_graphs(tmp_path / "t", [Graph((all_reduce(0),))] * 4, numbers(), numbers(1 << 20))
    inputs = {"workload": "t", "system": "system.json", "network": "network.yml"}
    flags = [f"--{name}-configuration={tmp_path}/{file}" for name, file in inputs.items()]
    return lambda *more: main([*flags, *more])


@pytest.mark.parametrize(
    "flag", ["--ns3-mtu=9000", "--ns3-window=1", "--logical-topology-configuration=x.json"]
)
def test_flags_of_ns3_need_the_backend(command, capsys, flag):
    assert command(flag) == 2
    assert capsys.readouterr().err == f"error: {flag.split('=')[0]}: only with --network-backend ns3\n"


def test_the_command_hands_its_flags_over(fake, command, tmp_path):
    fake.program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/flags\nexit 3\n')
    assert command("--network-backend=ns3", "--ns3-mtu=9000", "--ns3-header=40", "--ns3-window=1.5") == 2
    assert (
        (tmp_path / "flags")
        .read_text()
        .startswith("--mtu=9000 --header=40 --window=1.5 --buffer=0 --topology=/")
    )


def test_the_command_ends_with_one_message_when_the_process_fails(fake, command, capfd):
    fake.program.write_text("#!/bin/sh\necho astra_ns3: error: told to fail >&2\nexit 2\n")
    assert command("--network-backend=ns3") == 2
    assert capfd.readouterr().err == (
        "astra_ns3: error: told to fail\nerror: the network process has ended; its own message says why\n"
    )


def test_logical_dims_must_be_those_npus(command, tmp_path, capsys):
    (tmp_path / "logical.json").write_text('{"logical-dims": ["2", "4"]}')
    flags = ["--network-backend=ns3", f"--logical-topology-configuration={tmp_path}/logical.json"]
    assert command(*flags) == 2
    assert "logical.json: logical-dims: 8 NPUs, but the network has 4\n" in capsys.readouterr().err

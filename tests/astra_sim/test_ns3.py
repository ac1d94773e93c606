"""The packet network in ns-3 against closed forms; skipped where astra_ns3 is not built."""

from __future__ import annotations

import json
import math
import struct
import subprocess
from pathlib import Path

import pytest
from astra_sim_builders import BYTES_PER_NS, all_reduce, drain, network, numbers, recv, run, send

from astra_sim import (
    Engine,
    EngineOptions,
    Graph,
    LinkSpeed,
    LinkTopology,
    NetworkConfig,
    Ns3Options,
    SystemConfig,
    cluster_links,
    links_of_network,
    write_graphs,
    write_network,
    write_system,
)
from astra_sim.cli import main
from astra_sim.input_error import InputError
from astra_sim.ns3_backend import find_executable

try:
    EXECUTABLE = find_executable()
except InputError:
    pytest.skip("astra_ns3 is not built: ./compile.sh --ns3", allow_module_level=True)

LATENCY_NS = 500
RATE = 50 * BYTES_PER_NS
SEND, ADVANCE, NEVER = 1, 2, 2**63 - 1
SYSTEM = SystemConfig(local_mem_bw_gbps=1600)
EMPTY = numbers()


def flow_ns(size: int, hops: int = 2, mtu: int = 4096, header: int = 82) -> float:
    """A message alone: its packets one after another, and the last but one full packet stored at every hop."""
    packets = max(1, math.ceil(size / mtu))
    on_wire = size + packets * header + (hops - 1) * (min(size, mtu) + header)
    return hops * LATENCY_NS + on_wire / RATE


def messages_ns(config: NetworkConfig, messages: list[tuple[int, int, int]], **options: object) -> list[int]:
    """Finish time of the receive of each message (source, destination, bytes), all sent at time 0."""
    target = Engine(config, SYSTEM, options=EngineOptions("ns3", ns3=Ns3Options(**options)))
    tickets = []
    for source, destination, size in messages:
        template = target.compile([Graph((send(0, 1),)), Graph((recv(0, 0),))])
        tickets.append(target.submit(template, [source, destination], EMPTY, numbers(size), 0))
    done = {completion.ticket: completion.finish_ns for completion in drain(target)}
    return [done[ticket] for ticket in tickets]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, 1_000_000, 1 << 24])
@pytest.mark.parametrize(("mtu", "header"), [(4096, 82), (9000, 2), (16384, 100), (256, 10)])
def test_a_message_alone_takes_the_closed_form(size, mtu, header):
    (finish_ns,) = messages_ns(network(2), [(0, 1, size)], mtu_bytes=mtu, header_bytes=header)
    assert finish_ns == pytest.approx(flow_ns(size, 2, mtu, header), abs=1 + 0.001 * size / mtu)  # ps in ns-3


@pytest.mark.parametrize(
    ("wiring", "npus", "destination", "hops"),
    [("Ring", 8, 3, 3), ("Ring", 8, 6, 2), ("FullyConnected", 8, 5, 1), ("Switch", 8, 5, 2)],
)
def test_a_message_is_stored_and_forwarded_at_every_hop(wiring, npus, destination, hops):
    (finish_ns,) = messages_ns(network(npus, wiring), [(0, destination, 1 << 20)])
    assert finish_ns == pytest.approx(flow_ns(1 << 20, hops), abs=2)


def test_seven_into_one_take_seven_times_as_long():
    size = 1 << 20
    finish_ns = messages_ns(network(8), [(npu, 0, size) for npu in range(1, 8)])
    assert max(finish_ns) == pytest.approx(flow_ns(7 * size), rel=0.002)


def test_two_transfers_share_a_link():
    size = 1 << 22
    speed = LinkSpeed(50, LATENCY_NS)
    links = cluster_links([2, 2], LinkSpeed(400, 0), speed, "per-node")
    apart = messages_ns(network(4), [(0, 2, size)], links=links)
    shared = messages_ns(network(4), [(0, 2, size), (1, 3, size)], links=links)
    assert max(shared) == pytest.approx(2 * (apart[0] - 1000) + 1000, rel=0.002)
    assert min(shared) == pytest.approx(max(shared), rel=0.002)  # packet by packet, so both end at the end


def test_directions_of_a_link_do_not_disturb_each_other():
    size = 1 << 20
    assert (
        messages_ns(network(2), [(0, 1, size), (1, 0, size)]) == messages_ns(network(2), [(0, 1, size)]) * 2
    )


def test_a_window_of_one_bdp_keeps_the_path_full_and_half_of_it_does_not():
    size = 1 << 24
    unlimited, one, half = (messages_ns(network(2), [(0, 1, size)], window_bdp=k)[0] for k in (0, 1, 0.5))
    assert one == pytest.approx(unlimited, rel=0.001)
    packet_ns = (4096 + 82) / RATE
    round_trip_ns = 4 * LATENCY_NS + 2 * packet_ns
    packets = math.ceil(0.5 * round_trip_ns * RATE / 4096)
    assert half == pytest.approx(unlimited * round_trip_ns / (packets * packet_ns), rel=0.005)


def test_a_full_buffer_drops_packets_which_come_again():
    size = 1 << 20
    incast = [(npu, 0, size) for npu in range(1, 8)]
    finish_ns = messages_ns(network(8), incast, buffer_bytes=20_000)
    assert max(finish_ns) == pytest.approx(flow_ns(7 * size), rel=0.01)
    assert messages_ns(network(8), incast, buffer_bytes=20_000) == finish_ns


@pytest.mark.parametrize("npus", [2, 4, 8])
def test_a_ring_all_reduce_is_its_steps_one_after_another(npus):
    size = 1 << 21
    target = Engine(network(npus), SYSTEM, options=EngineOptions("ns3"))
    reduction = 3 * int(size // npus / 1600)
    expected = 10 + 2 * (npus - 1) * (math.ceil(flow_ns(size // npus)) + 10) + (npus - 1) * reduction
    assert run(target, [[all_reduce(0)]] * npus, sizes=[size]) == pytest.approx(expected, abs=2 * npus)


def test_a_run_repeats_to_the_last_ns():
    config = NetworkConfig(
        topology=("Ring", "Switch"), npus_count=(4, 2), bandwidth_gbps=(100, 50), latency_ns=(200, 700)
    )
    messages = [(a, b, 100_000 + 777 * a + b) for a in range(8) for b in range(8) if a != b]
    assert messages_ns(config, messages) == messages_ns(config, messages)


# The executable by itself: protocol and errors.


def ask(tmp_path: Path, requests: list[tuple[int, ...]], topology: str = "", *flags: str):
    """Run it on the given requests; returns replies, exit code and what it said."""
    file = tmp_path / "topology.txt"
    file.write_text(topology or links_of_network(network(4)).text())
    done = subprocess.run(
        [EXECUTABLE, "--topology", file, *flags],
        input=b"".join(struct.pack("<6q", *request) for request in requests),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return list(struct.iter_unpack("<2q", done.stdout)), done.returncode, done.stderr.decode()


def test_the_clock_stops_at_the_limit_or_the_landing_and_starts_again_there(tmp_path):
    once = math.ceil(flow_ns(4096))
    replies, code, _ = ask(
        tmp_path,
        [
            (ADVANCE, 0, 0, 0, 0, 100),
            (SEND, 7, 0, 1, 4096, 100),
            (ADVANCE, 0, 0, 0, 0, 100 + once - 1),
            (ADVANCE, 0, 0, 0, 0, 10**6),
            (SEND, 8, 1, 0, 4096, 100 + once),
            (SEND, 9, 2, 3, 4096, 100 + once),
            *[(ADVANCE, 0, 0, 0, 0, NEVER)] * 3,
        ],
    )
    landed = 100 + once
    assert replies[:3] == [(100, -1), (landed - 1, -1), (landed, 7)]
    assert replies[3:] == [(landed + once, 8), (landed + once, 9), (NEVER, -1)]
    assert code == 0


def test_a_message_may_start_later(tmp_path):
    replies, *_ = ask(tmp_path, [(SEND, 1, 0, 1, 4096, 5000), *[(ADVANCE, 0, 0, 0, 0, NEVER)]])
    assert replies == [(5000 + math.ceil(flow_ns(4096)), 1)]


def landings_ns(tmp_path: Path, pairs: list[tuple[int, int]], config: NetworkConfig) -> list[int]:
    """When messages of 1 MiB land, all sent at time 0."""
    sends = [(SEND, number, *pair, 1 << 20, 0) for number, pair in enumerate(pairs)]
    replies, *_ = ask(
        tmp_path, sends + [(ADVANCE, 0, 0, 0, 0, NEVER)] * len(pairs), links_of_network(config).text()
    )
    times = {number: time_ns for time_ns, number in replies}
    return [times[number] for number in range(len(pairs))]


def test_messages_of_one_npu_take_turns_between_destinations_and_go_in_order_to_one(tmp_path):
    one, two = math.ceil(flow_ns(1 << 20)), math.ceil(flow_ns(2 << 20))
    turns = landings_ns(tmp_path, [(0, 1), (0, 2)], network(3))
    assert turns == [pytest.approx(two, abs=300), pytest.approx(two, abs=2)]
    order = landings_ns(tmp_path, [(0, 1), (0, 1)], network(3))
    assert order == [pytest.approx(one, abs=2), pytest.approx(two, abs=2)]


def test_opposite_npus_of_a_ring_are_reached_upwards(tmp_path):
    ring = network(4, "Ring")
    (alone,) = landings_ns(tmp_path, [(0, 2)], ring)
    assert landings_ns(tmp_path, [(0, 2), (0, 3)], ring)[0] == alone
    assert landings_ns(tmp_path, [(0, 2), (0, 1)], ring)[0] > 1.9 * alone
    assert landings_ns(tmp_path, [(3, 1), (3, 0)], ring)[0] > 1.9 * alone


def test_packets_get_through_however_small_the_buffers_are(tmp_path):
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b]
    sends = [(SEND, number, *pair, 1 << 18, 0) for number, pair in enumerate(pairs)]
    questions = [(ADVANCE, 0, 0, 0, 0, NEVER)] * len(pairs)
    ring = links_of_network(network(6, "Ring")).text()
    replies, code, _ = ask(tmp_path, sends + questions, ring, "--buffer=4178")
    assert sorted(number for _, number in replies) == list(range(len(pairs)))
    assert code == 0


@pytest.mark.parametrize(
    ("requests", "topology", "message"),
    [
        ([(SEND, 1, 0, 9, 1, 0)], "", "destination 9 does not exist: the topology has NPUs 0 to 3"),
        ([(SEND, 1, 2, 2, 1, 0)], "", "a message from an NPU to itself never leaves it"),
        ([(SEND, 1, 0, 1, -1, 0)], "", "a message cannot have a negative size"),
        ([(ADVANCE, 0, 0, 0, 0, 9), (SEND, 1, 0, 1, 1, 8)], "", "time 8 ns: expected 9 to "),
        ([(3, 0, 0, 0, 0, 0)], "", "request of unknown kind 3"),
        ([(SEND, 1, 0, 1, 1, 0)], "npus 2 switches 0\n", "no path leads from NPU 0 to NPU 1"),
        ([], "npus 2 switches\n", "topology.txt:1: the number of switches must be an integer"),
        ([], "npus 2 switches 0\nlink 0 2 1 1\n", "topology.txt:2: B must be an integer from 0 to 1"),
        ([], "npus 2 switches 0\nlink 0 1 0 1\n", "topology.txt:2: GBPS must be above 0"),
        ([], "npus 2 switches 0\nlink 0 1 1 1 1\n", "topology.txt:2: '1' is too much"),
        ([], "\n", "topology.txt: empty; the first line is 'npus N switches S'"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, requests, topology, message):
    _, code, said = ask(tmp_path, requests, topology)
    assert code == 2
    assert said.startswith("astra_ns3: error: ")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mtu", "0"], "--mtu: '0': expected an integer from 1 to 16777216"),
        (["--window=-1"], "--window: '-1': expected a number"),
        (["--buffer=100"], "--buffer: '100': smaller than one packet"),
        (["--speed=1"], "unknown flag '--speed'"),
        (["--mtu"], "'--mtu' needs a value"),
    ],
)
def test_bad_flags_are_named(tmp_path, flags, message):
    _, code, said = ask(tmp_path, [], "", *flags)
    assert code == 2
    assert message in said


def test_the_version_names_ns3_and_the_transport():
    shown = subprocess.run([EXECUTABLE, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("astra_ns3 with ns-3 3.")
    assert "transport: raw packets, store and forward" in shown


def test_the_engine_reports_what_the_executable_says(capfd):
    target = Engine(
        network(2), SYSTEM, options=EngineOptions("ns3", ns3=Ns3Options(links=LinkTopology(2, 0, ())))
    )
    with pytest.raises(RuntimeError, match="the network process has ended; its own message says why"):
        run(target, [[send(0, 1)], [recv(0, 0)]], sizes=[1])
    assert "astra_ns3: error: no path leads from NPU 0 to NPU 1" in capfd.readouterr().err


def test_python_m_astra_sim_runs_it(tmp_path, capsys):
    write_network(tmp_path / "network.yml", network(4))
    write_system(tmp_path / "system.json", SYSTEM)
    write_graphs(tmp_path / "t", [Graph((all_reduce(0),))] * 4, EMPTY, numbers(1 << 20))
    (tmp_path / "logical.json").write_text(json.dumps({"logical-dims": ["4"]}))
    inputs = {
        "workload": "t",
        "system": "system.json",
        "network": "network.yml",
        "logical-topology": "logical.json",
    }
    flags = [f"--{name}-configuration={tmp_path}/{file}" for name, file in inputs.items()]
    assert main([*flags, "--network-backend=ns3", "--ns3-mtu=9000", "--ns3-header=0"]) == 0
    step = math.ceil(flow_ns(1 << 18, mtu=9000, header=0)) + 10
    expected = 10 + 6 * step + 3 * 3 * int((1 << 18) / 1600)
    cycles = int(capsys.readouterr().out.split("sys[0] finished, ")[1].split(" ")[0])
    assert cycles == pytest.approx(expected, abs=8)

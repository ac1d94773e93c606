"""The packet network in ns-3 against the unaware network and closed forms: ``python benchmarks/ns3.py``.

Prints the tables of docs/ns3.md. Needs ./compile.sh --ns3. Simulated times are the same everywhere; CPU times are the
operating system's figures for the network process and depend on the machine.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from astra_sim import (
    CollectiveKind,
    Engine,
    EngineOptions,
    Graph,
    InputError,
    LinkSpeed,
    LinkTopology,
    NetworkConfig,
    Node,
    NodeKind,
    Ns3Options,
    SystemConfig,
    cluster_links,
)
from astra_sim.ns3_backend import find_executable

MIB = 2**20
BANDWIDTH_GBPS = 50.0
LATENCY_NS = 500.0
BYTES_PER_NS = BANDWIDTH_GBPS * 2**30 / 1e9
MTUS = (4096, 9000, 16384)
SYSTEM = SystemConfig(local_mem_bw_gbps=1600)
NO_NUMBERS = np.array([], dtype=np.int64)


class Message(NamedTuple):
    """Bytes from one NPU to another, sent at time 0."""

    source: int
    destination: int
    size: int


class Outcome(NamedTuple):
    """When the last byte was there, and the CPU time that it cost the network process."""

    finish_ns: int
    cpu_s: float = 0.0


def switch(npus: int) -> NetworkConfig:
    """NPUs under one switch."""
    return NetworkConfig.flat("Switch", npus, BANDWIDTH_GBPS, LATENCY_NS)


def flow_ns(size: int, options: Ns3Options, hops: int = 2) -> float:
    """The closed form of a message alone, over ``hops`` links of one speed."""
    packets = max(1, math.ceil(size / options.mtu_bytes))
    first = min(size, options.mtu_bytes) + options.header_bytes
    return hops * LATENCY_NS + (size + packets * options.header_bytes + (hops - 1) * first) / BYTES_PER_NS


def finish(engine: Engine) -> int:
    """Run to the end; returns the last completion."""
    last_ns = 0
    while done := engine.advance():
        last_ns = done[-1].finish_ns
    if stalls := engine.stall_report():
        raise RuntimeError(stalls[0])
    return last_ns


def send_all(engine: Engine, messages: Iterable[Message]) -> int:
    """Send messages at time 0, each by a ticket of its own."""
    pair = engine.compile(
        [
            Graph((Node(0, NodeKind.SEND, "send", size_slot=0, peer=1),)),
            Graph((Node(0, NodeKind.RECV, "recv", size_slot=0, peer=0),)),
        ]
    )
    for source, destination, size in messages:
        engine.submit(pair, [source, destination], NO_NUMBERS, np.array([size]), 0)
    return finish(engine)


def all_reduce(engine: Engine, size: int) -> int:
    """One all-reduce of all NPUs."""
    node = Node(0, NodeKind.COLL, "all-reduce", size_slot=0, collective=CollectiveKind.ALL_REDUCE)
    template = engine.compile([Graph((node,))] * engine.npu_count)
    engine.submit(template, range(engine.npu_count), NO_NUMBERS, np.array([size]), 0)
    return finish(engine)


def children_cpu_s() -> float:
    """CPU time of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def packets(npus: int, work: Sequence[Message] | int, options: Ns3Options) -> Outcome:
    """Messages, or an all-reduce of so many bytes, in ns-3."""
    before_s = children_cpu_s()
    engine = Engine(switch(npus), SYSTEM, options=EngineOptions("ns3", ns3=options))
    finish_ns = all_reduce(engine, work) if isinstance(work, int) else send_all(engine, work)
    del engine  # ends the process, so that its CPU time counts
    return Outcome(finish_ns, children_cpu_s() - before_s)


def unaware_ns(npus: int, work: Sequence[Message] | int) -> int:
    """The same on the unaware network."""
    engine = Engine(switch(npus), SYSTEM)
    return all_reduce(engine, work) if isinstance(work, int) else send_all(engine, work)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def percent(value: float, reference: float) -> str:
    """How far a value is from a reference."""
    return f"{100 * (value / reference - 1):+.3f} %"


def flows(options: Ns3Options) -> Iterable[Sequence[object]]:
    """One message through one switch."""
    for mib in (1, 4, 16, 64, 256):
        message = [Message(0, 1, mib * MIB)]
        unaware = unaware_ns(2, message)
        expected = flow_ns(mib * MIB, options)
        found, _ = packets(2, message, options)
        yield mib, unaware, f"{expected:.1f}", found, percent(found, expected), percent(found, unaware)


def contention() -> Iterable[Sequence[object]]:
    """Messages that meet."""
    size = 16 * MIB
    for name, options in (
        ("7 to 1", Ns3Options()),
        ("7 to 1, window 1 BDP", Ns3Options(window_bdp=1)),
        ("7 to 1, buffer 100 kB", Ns3Options(buffer_bytes=100_000)),
    ):
        incast = [Message(npu, 0, size) for npu in range(1, 8)]
        yield name, *_ratio(8, incast, options)
    shared = Ns3Options(links=two_racks())
    yield "2 over a shared link", *_ratio(4, [Message(0, 2, size), Message(1, 3, size)], shared)
    yield "2 in opposite directions", *_ratio(4, [Message(0, 2, size), Message(3, 1, size)], shared)


def _ratio(npus: int, messages: Sequence[Message], options: Ns3Options) -> Sequence[object]:
    alone, _ = packets(npus, messages[:1], options)
    together, _ = packets(npus, messages, options)
    unaware = unaware_ns(npus, messages)
    return alone, together, f"{together / alone:.3f}", f"{together / unaware:.3f}"


def two_racks() -> LinkTopology:
    """Two NPUs under each of two switches; everything between the switches shares one link of 50 GB/s."""
    return cluster_links(
        2, 2, LinkSpeed(8 * BANDWIDTH_GBPS, 0), LinkSpeed(BANDWIDTH_GBPS, LATENCY_NS), "per-node"
    )


def all_reduces() -> Iterable[Sequence[object]]:
    """A ring all-reduce of 2 MiB."""
    for npus in (4, 8):
        moved_mib = 2 * (npus - 1) * 2
        unaware = unaware_ns(npus, 2 * MIB)
        for mtu in MTUS:
            found, cpu_s = packets(npus, 2 * MIB, Ns3Options(mtu_bytes=mtu))
            yield npus, mtu, moved_mib, unaware, found, percent(found, unaware), f"{1e3 * cpu_s:.0f}"


def cost() -> Iterable[Sequence[object]]:
    """CPU time for each simulated MiB, of 8 NPUs that all send 16 MiB to the next one."""
    shift = [Message(npu, (npu + 1) % 8, 16 * MIB) for npu in range(8)]
    for mtu in MTUS:
        for window in (0, 1):
            options = Ns3Options(mtu_bytes=mtu, window_bdp=window)
            cpu_s = min(packets(8, shift, options).cpu_s for _ in range(3))
            yield mtu, window, 8 * math.ceil(16 * MIB / mtu), f"{1e3 * cpu_s / 128:.2f}"


def main() -> int:
    """Print all tables."""
    try:
        find_executable()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    single = ["MiB", "unaware (ns)", "closed form (ns)", "ns-3 (ns)", "to closed form", "to unaware"]
    for mtu in MTUS:
        table(f"One message, MTU {mtu}, header 82", single, flows(Ns3Options(mtu_bytes=mtu)))
    table("One message, MTU 4096, header 0", single, flows(Ns3Options(header_bytes=0)))
    table(
        "Messages of 16 MiB that meet",
        ["", "one alone (ns)", "all (ns)", "all / alone", "all / unaware"],
        contention(),
    )
    table(
        "Ring all-reduce of 2 MiB",
        ["NPUs", "MTU", "MiB moved", "unaware (ns)", "ns-3 (ns)", "to unaware", "CPU (ms)"],
        all_reduces(),
    )
    table("CPU time for a simulated MiB", ["MTU", "window", "packets", "ms/MiB"], cost())
    return 0


if __name__ == "__main__":
    sys.exit(main())

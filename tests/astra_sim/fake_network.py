"""A network process for tests: the protocol of astra_ns3 with the delays of the unaware network.

FAKE_NETWORK holds the dimensions as JSON, [[wiring, npus, GB/s, ns], ...]. FAKE_FAULT makes it misbehave: "silent"
ends it before it has answered anything, "gone" after the first answer, "early", "late" and "unknown" spoil answers.
FAKE_LOG is a file to which every request is appended.
"""

from __future__ import annotations

import heapq
import json
import os
import struct
import sys
from typing import Any

SEND, ADVANCE = 1, 2


def delay_ns(dimensions: list[Any], source: int, destination: int, size: int) -> int:
    for wiring, npus, bandwidth_gbps, latency_ns in dimensions:
        distance = abs(source % npus - destination % npus)
        if distance:
            hops = {"Ring": min(distance, npus - distance), "Switch": 2, "FullyConnected": 1}[wiring]
            return int(hops * latency_ns + size / (bandwidth_gbps * 2**30 / 1e9))
        source //= npus
        destination //= npus
    return 0


def spoilt(fault: str, reply: tuple[int, int]) -> tuple[int, int]:
    time_ns, number = reply
    return {"early": (-1, number), "late": (time_ns + 1, number), "unknown": (time_ns, 77)}.get(fault, reply)


def main() -> None:
    dimensions = json.loads(os.environ["FAKE_NETWORK"])
    fault = os.environ.get("FAKE_FAULT", "")
    log = os.environ.get("FAKE_LOG")
    landings: list[tuple[int, int, int]] = []
    sends = replies = 0
    while frame := sys.stdin.buffer.read(48):
        kind, number, source, destination, size, time_ns = request = struct.unpack("<6q", frame)
        if log:
            with open(log, "a", encoding="ascii") as file:  # noqa: PTH123
                print(*request, file=file)
        if kind == SEND:
            landing_ns = time_ns + delay_ns(dimensions, source, destination, size)
            heapq.heappush(landings, (landing_ns, sends, number))
            sends += 1
            continue
        if fault == "silent" or (fault == "gone" and replies > 0):
            sys.exit("fake network: error: told to fail")
        reply = (time_ns, -1)
        if landings and landings[0][0] <= time_ns:
            landing_ns, _, number = heapq.heappop(landings)
            reply = (landing_ns, number)
        sys.stdout.buffer.write(struct.pack("<2q", *(reply if replies == 0 else spoilt(fault, reply))))
        sys.stdout.buffer.flush()
        replies += 1


if __name__ == "__main__":
    main()

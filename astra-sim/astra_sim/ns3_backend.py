"""The network of packets: an ns-3 process beside the engine, driven over two pipes (docs/ns3.md)."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError
from astra_sim.link_topology import LinkTopology, links_of_network
from astra_sim.network_config import NetworkConfig

EXECUTABLE = "astra_ns3"
ENVIRONMENT_VARIABLE = "ASTRA_NS3"

_LARGEST_PACKET = 1 << 24
_LARGEST_BUFFER = 1 << 40
_LARGEST_WINDOW = 1e6

_INSTALL = (
    "install ns-3 (Debian, Ubuntu: sudo apt-get install libns3-dev; any Linux: .venv/bin/python -m pip install "
    "--no-deps ns3==3.44.post0), then run ./compile.sh --ns3"
)


@dataclass(frozen=True)
class Ns3Options:
    """How packets move; see docs/ns3.md."""

    mtu_bytes: int = 4096
    """Data in a full packet (RoCE's largest MTU)."""
    header_bytes: int = 82
    """On the wire with every packet beside the data: Ethernet 38 (with preamble and gap), IPv4 20, UDP 8, RoCE 16."""
    window_bdp: float = 0.0
    """Unacknowledged data of a pair of NPUs in bandwidth-delay products of its path; 0: no limit."""
    buffer_bytes: int = 0
    """Packets waiting at an outgoing port of a forwarding node; 0: no limit, and nothing is lost."""
    links: LinkTopology | None = None
    """The physical network, if it is not what the network config says."""

    def __post_init__(self) -> None:
        _check("mtu", self.mtu_bytes, 1, _LARGEST_PACKET)
        _check("header", self.header_bytes, 0, _LARGEST_PACKET)
        _check("buffer", self.buffer_bytes, 0, _LARGEST_BUFFER)
        if not (math.isfinite(self.window_bdp) and 0 <= self.window_bdp <= _LARGEST_WINDOW):
            raise ValueError(
                f"ns3 window: {self.window_bdp}: expected a number from 0 to {_LARGEST_WINDOW:.0f}"
            )
        if 0 < self.buffer_bytes < self.mtu_bytes + self.header_bytes:
            raise ValueError(
                f"ns3 buffer: {self.buffer_bytes}: smaller than one packet of {self.mtu_bytes} + "
                f"{self.header_bytes} bytes; nothing would ever pass"
            )

    def flags(self) -> list[str]:
        """The flags of the executable."""
        return [
            f"--mtu={self.mtu_bytes}",
            f"--header={self.header_bytes}",
            f"--window={self.window_bdp!r}",
            f"--buffer={self.buffer_bytes}",
        ]


class NetworkProcess:
    """A running network: started with its pipes, ended with :meth:`stop`."""

    def __init__(self, command: Sequence[str], topology: LinkTopology) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="astra_ns3_")
        file = Path(self._folder.name) / "topology.txt"
        file.write_text(topology.text(), encoding="ascii")
        try:
            self._process = subprocess.Popen(
                [*command, f"--topology={file}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            self._folder.cleanup()
            raise InputError(command[0], "", f"cannot be started: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """Its number in the operating system."""
        return self._process.pid

    def hand_over(self) -> tuple[int, int]:
        """Give the ends of the pipes away: descriptors of replies and of requests, which the taker closes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        ends = os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
        self._process.stdout.close()
        self._process.stdin.close()
        return ends

    def stop(self) -> None:
        """End it; it keeps nothing that could be lost."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def start_ns3(network: NetworkConfig, options: Ns3Options) -> NetworkProcess:
    """Start the executable on the links of a network; raise InputError if there is none."""
    links = options.links or links_of_network(network)
    if links.npus != network.npu_total:
        raise ValueError(f"ns3 links: {links.npus} NPUs, but the network has {network.npu_total}")
    return NetworkProcess([str(find_executable()), *options.flags()], links)


def find_executable() -> Path:
    """Find astra_ns3: in $ASTRA_NS3, else in the project's build folder, else on the PATH."""
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise InputError(ENVIRONMENT_VARIABLE, "", f"{named!r} is no program; unset it, or {_INSTALL}")
        return Path(named)
    built = Path(__file__).resolve().parents[2] / "build" / "ns3" / EXECUTABLE
    if os.access(built, os.X_OK):
        return built
    if found := shutil.which(EXECUTABLE):
        return Path(found)
    raise InputError("network backend ns3", "", f"{EXECUTABLE} is not built; {_INSTALL}")


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"ns3 {name}: {value}: expected an integer from {least} to {most}")

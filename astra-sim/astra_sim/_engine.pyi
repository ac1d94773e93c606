from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from astra_sim.graph import Graph

class Wiring(Enum):
    RING = 0
    SWITCH = 1
    FULLY_CONNECTED = 2

class Dimension:
    def __init__(self, wiring: Wiring, npus: int, bandwidth_gbps: float, latency_ns: float) -> None: ...

class MemorySpec:
    def __init__(self, type: str, latency_ns: int, bandwidth_gbps: float, nodes: Sequence[int]) -> None: ...

class SystemSpec:
    endpoint_delay_ns: int
    active_chunks: int
    splits: int
    local_bandwidth_aware: bool
    local_mem_bw_gbps: float
    peak_tflops: float
    roofline: bool
    replay_only: bool
    all_reduce: list[str]
    all_gather: list[str]
    reduce_scatter: list[str]
    all_to_all: list[str]
    def __init__(self) -> None: ...

class Template: ...

class Simulation:
    def __init__(
        self,
        backend: str,
        dimensions: Sequence[Dimension],
        system: SystemSpec,
        memories: Sequence[MemorySpec],
        replies: int = -1,
        requests: int = -1,
    ) -> None: ...
    def compile(self, graphs: Sequence[Graph]) -> Template: ...
    def submit(
        self,
        template: Template,
        npus: Sequence[int],
        durations_ns: NDArray[np.int64],
        sizes: NDArray[np.int64],
        at_ns: int,
    ) -> int: ...
    def advance(self, until_ns: int | None) -> list[tuple[int, int, int]]: ...
    def stall_report(self) -> list[str]: ...
    def npu_stats(self, npu: int) -> tuple[int, int, int, int, int, int]: ...
    @property
    def now_ns(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def nodes_finished(self) -> int: ...
    @property
    def p2p_bytes(self) -> int: ...
    @property
    def collective_bytes(self) -> int: ...
    @property
    def tickets_active(self) -> int: ...

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from astra_sim.graph import Graph

class NetworkError(RuntimeError): ...

def topologies() -> list[str]: ...
def check_algorithm(name: str) -> None: ...

class Dimension:
    def __init__(self, wiring: str, npus: int, bandwidth_gbps: float, latency_ns: float) -> None: ...

class MemorySpec:
    def __init__(
        self,
        type: str,
        latency_ns: int,
        bandwidth_gbps: float,
        nodes: Sequence[int],
        node_speeds: Sequence[tuple[int, float]],
        pim_channels: int,
    ) -> None: ...

class SystemSpec:
    endpoint_delay_ns: int
    active_chunks: int
    splits: int
    queues_per_dimension: int
    rendezvous: bool
    local_bandwidth_aware: bool
    local_mem_bw_gbps: float
    peak_tflops: float
    roofline: bool
    replay_only: bool
    algorithms: Sequence[Sequence[str]]
    custom_of_kind: Sequence[int]
    custom_of_node: Mapping[int, int]
    def __init__(self) -> None: ...

class CustomSpec:
    def __init__(
        self, graphs: Sequence[Graph], durations_ns: Sequence[int], sizes: Sequence[int]
    ) -> None: ...

class Template: ...

class Simulation:
    def __init__(
        self,
        backend: str,
        dimensions: Sequence[Dimension],
        system: SystemSpec,
        memories: Sequence[MemorySpec],
        customs: Sequence[CustomSpec],
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
    def stall_report(self) -> list[tuple[int, int, str, str, int]]: ...
    def record(self) -> None: ...
    def node_spans(self) -> list[tuple[int, int, int, int]]: ...
    def link_spans(self) -> list[tuple[str, int, int, int, int, int]]: ...
    def npu_stats(self, npu: int) -> tuple[int, int, int, int, int, int, int, int, int, int]: ...
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

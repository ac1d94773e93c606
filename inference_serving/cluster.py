"""The cluster as the simulation sees it: validated, resolved, numbered; plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from astra_sim import NetworkConfig
from inference_serving.memory_model import MemoryPlan, Precision
from inference_serving.pim_model import PimSpec
from inference_serving.pipeline.stage import PipelineStage, make_stages
from inference_serving.placement import Placement
from inference_serving.power.schema import NodePower
from inference_serving.settings import SchedulerSettings
from llm_profile.model_config import ModelConfig


class Role(Enum):
    """What an instance does: both phases, or one of them."""

    COLOCATED = "colocated"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One serving instance: model, hardware, its NPUs (ids of the whole cluster) and how it batches."""

    instance_id: int
    node_id: int
    role: Role
    model: ModelConfig
    hardware: str
    npus: tuple[int, ...]
    mem_bw_gbps: float
    memory: MemoryPlan
    precision: Precision
    scheduler: SchedulerSettings
    placement: Placement
    mem_latency_ns: float = 0.0
    ep_size: int = 1
    """Ranks over which whole experts are spread: 1 (every rank has a share of each expert), those of the instance,
    or those of its data-parallel group."""
    dp_group: str | None = None
    """Instances of one group run their iterations together."""
    pim: PimSpec | None = None
    """The memory in which its decode attention runs; None: its NPUs do that too."""
    interleaves: bool = False
    """Whether its NPUs work on one half of a batch while that memory works on the other."""
    partition: tuple[int, ...] = ()
    """Transformer blocks of each pipeline stage; empty: there is one stage. The NPUs are those of the first stage,
    then those of the next, and so on, all of one number."""

    @property
    def pp_size(self) -> int:
        """Pipeline stages."""
        return len(self.partition) or 1

    @property
    def tp_size(self) -> int:
        """Tensor-parallel ranks, of each stage."""
        return len(self.npus) // self.pp_size

    def stages(self) -> tuple[PipelineStage, ...]:
        """Its pipeline stages; empty without pipeline parallelism."""
        return make_stages(self.partition)

    def of_stage(self, stage: PipelineStage) -> InstanceSpec:
        """The instance as one of its stages sees it: with the NPUs of that stage only."""
        first = stage.part * self.tp_size
        return replace(self, npus=self.npus[first : first + self.tp_size], partition=())

    @property
    def expert_tp_size(self) -> int:
        """Ranks that share the columns of each expert; 1 for a dense model."""
        return self.tp_size if self.model.is_moe and self.ep_size == 1 else 1

    @property
    def expert_groups(self) -> int:
        """Groups of experts on the instance's own ranks: one for each rank if they are spread, else one."""
        return self.tp_size if self.ep_size > 1 else 1


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One server: its NPUs and its host memory (GB/s of 1e9 bytes, ns)."""

    node_id: int
    npus: tuple[int, ...]
    cpu_mem_bw_gbps: float
    cpu_mem_latency_ns: float
    cpu_mem_bytes: int
    power: NodePower | None = None
    """What its parts draw; None: power is not modelled here."""
    pim: PimSpec | None = None
    """What its host memory is made of, if attention is offloaded to it."""

    @property
    def host_bw_gbps(self) -> float:
        """What NPUs load from host memory: ``mem_bw``, or less if its channels together have less."""
        if self.pim is None:
            return self.cpu_mem_bw_gbps
        return min(self.cpu_mem_bw_gbps, self.pim.channels * self.pim.device.bandwidth_gbps)

    @property
    def host_latency_ns(self) -> float:
        """``mem_latency``, and the device's own if one is named."""
        device_ns = 0.0 if self.pim is None else self.pim.device.read_latency_ns
        return self.cpu_mem_latency_ns + device_ns


@dataclass(frozen=True, slots=True)
class CxlSpec:
    """A pool of equal CXL memory devices that every node reaches; bytes, GB/s (1e9) and ns of each device."""

    devices: int
    device_bytes: int
    bandwidth_gbps: float
    latency_ns: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """All instances and nodes, and the network between all their NPUs."""

    file: Path
    instances: tuple[InstanceSpec, ...]
    nodes: tuple[NodeSpec, ...]
    network: NetworkConfig
    wired: bool = False
    """Whether the config says how the NPUs are wired (``topology``), not only how fast the links are."""
    cxl: CxlSpec | None = None
    local_offloading: bool = False
    """Whether weights are loaded from the NPUs' own memories."""

    @property
    def npu_count(self) -> int:
        """NPUs of the whole cluster."""
        return sum(len(node.npus) for node in self.nodes)

    def on_node(self, node_id: int) -> tuple[InstanceSpec, ...]:
        """Instances of one node."""
        return tuple(instance for instance in self.instances if instance.node_id == node_id)

    def dp_groups(self) -> list[tuple[InstanceSpec, ...]]:
        """Instances of each data-parallel group, in order."""
        groups: dict[str, list[InstanceSpec]] = {}
        for spec in self.instances:
            if spec.dp_group is not None:
                groups.setdefault(spec.dp_group, []).append(spec)
        return [tuple(members) for members in groups.values()]

    def with_role(self, *roles: Role) -> list[InstanceSpec]:
        """Instances that have one of ``roles``."""
        return [instance for instance in self.instances if instance.role in roles]

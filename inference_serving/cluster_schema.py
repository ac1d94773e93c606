"""The cluster config file as its users write it: every field, its type and its limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from astra_sim.network_config import Wiring
from inference_serving.placement import PlacementSection
from inference_serving.power.schema import PowerSection
from inference_serving.schema_base import NonNegativeNumber, PositiveCount, PositiveNumber, Section
from inference_serving.speculation.drafts import MOST_DRAFTS


class NpuMemory(Section):
    """Memory of one NPU: GB (2**30 bytes), GB/s (1e9 bytes a second), ns; ``kv_blocks`` overrides what fits."""

    mem_size: PositiveNumber
    mem_bw: PositiveNumber
    mem_latency: NonNegativeNumber = 0
    mem_util: Annotated[float, Field(gt=0, le=1)] | None = None
    kv_blocks: Annotated[int, Field(ge=1, le=10**12)] | None = None


class CpuMemory(Section):
    """Host memory of one node: GB (2**30 bytes), GB/s (1e9 bytes a second), ns.

    ``pim_config`` names the device that its channels are made of, see :mod:`inference_serving.pim.device`.
    """

    mem_size: PositiveNumber
    mem_bw: PositiveNumber
    mem_latency: NonNegativeNumber = 0
    pim_config: str | None = None


class CxlMemory(Section):
    """A pool of ``num_devices`` CXL memory devices; size, bandwidth and latency are those of each."""

    mem_size: PositiveNumber
    mem_bw: PositiveNumber
    mem_latency: NonNegativeNumber = 0
    num_devices: PositiveCount = 1


class InstanceSection(Section):
    """One serving instance; ``npu_num``/``npu_group`` and ``num_npus``/``tp_size``/``pp_size`` say the same.

    ``pp_layer_partition`` has the transformer blocks of each pipeline stage, where they are not dealt evenly.
    """

    model_name: str
    hardware: str
    npu_mem: NpuMemory
    npu_num: PositiveCount | None = None
    npu_group: PositiveCount | None = None
    num_npus: PositiveCount | None = None
    tp_size: PositiveCount | None = None
    pp_size: PositiveCount | None = None
    pp_layer_partition: list[PositiveCount] | None = None
    ep_size: PositiveCount | None = None
    dp_group: str | None = None
    pd_type: Literal["prefill", "decode"] | None = None
    placement: PlacementSection | None = None
    max_batch: Annotated[int, Field(ge=0)] | None = None
    max_num_seqs: Annotated[int, Field(ge=0)] | None = None
    max_num_batched_tokens: Annotated[int, Field(ge=0)] | None = None
    long_prefill_token_threshold: Annotated[int, Field(ge=0)] | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None
    reserve_full_isl: bool | None = None
    prioritize_prefill: bool | None = None
    async_scheduling: bool | None = None
    num_speculative_tokens: Annotated[int, Field(ge=0, le=MOST_DRAFTS)] | None = None
    speculative_acceptance_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    speculative_draft_overhead: Annotated[int, Field(ge=0, le=10**12)] | None = None
    scheduling_policy: str | None = None
    policy_args: str | None = None
    block_size: PositiveCount | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None

    @property
    def pipeline_groups(self) -> int:
        """Number of pipeline stages."""
        return self.pp_size or self.npu_group or 1

    @property
    def npu_count(self) -> int:
        """NPUs of the instance."""
        return self.npu_num or self.num_npus or (self.tp_size or 1) * self.pipeline_groups

    @property
    def tensor_parallel(self) -> int:
        """NPUs of one pipeline stage."""
        return self.npu_count // self.pipeline_groups

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> InstanceSection:
        for old, new in (("npu_num", "num_npus"), ("npu_group", "pp_size"), ("max_batch", "max_num_seqs")):
            given, also = getattr(self, old), getattr(self, new)
            if given is not None and also is not None and given != also:
                raise ValueError(f"{old} = {given} and {new} = {also} say different things; give one of them")
        npus, groups = self.npu_count, self.pipeline_groups
        if npus % groups:
            fitting = ", ".join(str(n) for n in range(1, npus + 1) if npus % n == 0)
            raise ValueError(
                f"{npus} NPUs cannot be split into npu_group = {groups} pipeline groups; use a multiple of "
                f"{groups} for npu_num, or set npu_group to one of {fitting}"
            )
        if self.tp_size is not None and self.tp_size * groups != npus:
            raise ValueError(
                f"tp_size = {self.tp_size} times {groups} pipeline group(s) is {self.tp_size * groups} NPUs, "
                f"but the instance has {npus}"
            )
        return self


class NodeSection(Section):
    """One server: its host memory and the instances on it."""

    num_instances: PositiveCount
    cpu_mem: CpuMemory
    instances: list[InstanceSection]
    power: PowerSection | None = None

    @model_validator(mode="after")
    def _counted(self) -> NodeSection:
        if len(self.instances) != self.num_instances:
            raise ValueError(
                f"num_instances = {self.num_instances}, but {len(self.instances)} instance(s) are listed"
            )
        return self

    @model_validator(mode="after")
    def _powered(self) -> NodeSection:
        if self.power is not None:
            self.power.check_has_npus(instance.hardware for instance in self.instances)
        return self


class ClusterSection(Section):
    """A whole cluster config: ``link_bw`` in GB/s (2**30 bytes a second), ``link_latency`` in ns.

    Lists give one value per network dimension, see :mod:`inference_serving.network_builder`.
    """

    num_nodes: PositiveCount
    link_bw: PositiveNumber | list[PositiveNumber]
    link_latency: NonNegativeNumber | list[NonNegativeNumber]
    topology: Wiring | list[Wiring] | None = None
    npus_count: list[PositiveCount] | None = None
    nodes: list[NodeSection]
    cxl_mem: CxlMemory | None = None

    @model_validator(mode="after")
    def _counted(self) -> ClusterSection:
        if len(self.nodes) != self.num_nodes:
            raise ValueError(f"num_nodes = {self.num_nodes}, but {len(self.nodes)} node(s) are listed")
        return self

    @model_validator(mode="after")
    def _powered_pool(self) -> ClusterSection:
        for index, node in enumerate(self.nodes):
            if node.power is not None and node.power.cxl is not None and self.cxl_mem is None:
                raise ValueError(
                    f"nodes[{index}].power.cxl describes devices, but there is no cxl_mem; add it, or remove power.cxl"
                )
        return self

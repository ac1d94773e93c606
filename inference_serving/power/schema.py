"""The ``power`` block of a node in the cluster config: watts, seconds, picojoules a bit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from inference_serving.schema_base import NonNegativeNumber, PositiveNumber, Section

Count = Annotated[int, Field(ge=0, le=10**9)]


class NpuPowerSection(Section):
    """One NPU: W when idle, up to ``standby_duration`` seconds after its last work, and in a layer."""

    idle_power: NonNegativeNumber
    standby_power: NonNegativeNumber
    active_power: NonNegativeNumber
    standby_duration: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _rising(self) -> NpuPowerSection:
        if not self.idle_power <= self.standby_power <= self.active_power:
            raise ValueError(
                f"idle_power = {self.idle_power:g}, standby_power = {self.standby_power:g} and active_power = "
                f"{self.active_power:g} must not fall in this order"
            )
        return self


class CpuPowerSection(Section):
    """The host's processors: W at no and at full load, and their utilization (0 to 1) without serving."""

    idle_power: NonNegativeNumber
    active_power: NonNegativeNumber
    util: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _rising(self) -> CpuPowerSection:
        if self.idle_power > self.active_power:
            raise ValueError(
                f"idle_power = {self.idle_power:g} must not be above active_power = {self.active_power:g}"
            )
        return self


class DramPowerSection(Section):
    """Host memory: GB and idle W of a DIMM, pJ of a bit read or written."""

    dimm_size: PositiveNumber
    idle_power: NonNegativeNumber
    energy_per_bit: NonNegativeNumber


class LinkPowerSection(Section):
    """Links between NPUs: their number, idle W of each, pJ of a bit sent."""

    num_links: Count
    idle_power: NonNegativeNumber
    energy_per_bit: NonNegativeNumber


class NicPowerSection(Section):
    """Network cards: their number, W of each."""

    num_nics: Count
    idle_power: NonNegativeNumber


class StoragePowerSection(Section):
    """Drives: their number, W of each."""

    num_devices: Count
    idle_power: NonNegativeNumber


class CxlPowerSection(Section):
    """Devices of the CXL pool that the node feeds: their number, idle W of each, pJ of a bit read or written."""

    num_devices: Count
    idle_power: NonNegativeNumber
    energy_per_bit: NonNegativeNumber


class PowerSection(Section):
    """What the parts of one node draw; ``npu`` by hardware name, ``base_node_power`` (W) for all the rest."""

    base_node_power: NonNegativeNumber
    npu: dict[str, NpuPowerSection]
    cpu: CpuPowerSection
    dram: DramPowerSection
    link: LinkPowerSection
    nic: NicPowerSection
    storage: StoragePowerSection
    cxl: CxlPowerSection | None = None

    def check_has_npus(self, hardware: Iterable[str]) -> None:
        """Raise ValueError if one of these is not described under ``npu``."""
        for name in hardware:
            if name not in self.npu:
                known = ", ".join(self.npu) or "nothing"
                raise ValueError(
                    f"power.npu has {known}, but an instance of the node has hardware {name!r}; describe it too"
                )


@dataclass(frozen=True, slots=True)
class NodePower:
    """The power block of a node, and its number of DIMMs."""

    section: PowerSection
    dimms: int

    @staticmethod
    def of(section: PowerSection, mem_size_gb: float) -> NodePower:
        """Count the DIMMs that make up a host memory of ``mem_size_gb``."""
        return NodePower(section, math.ceil(mem_size_gb / section.dram.dimm_size))

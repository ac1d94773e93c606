"""The host's memory: a constant for each DIMM, and energy for each bit read or written."""

from __future__ import annotations

from inference_serving.placement import HOST_MEMORY
from inference_serving.power.component import (
    J_PER_BYTE_OF_PJ_PER_BIT,
    PowerComponent,
    PoweredNode,
    register_component,
)
from inference_serving.power.iteration_work import FloatArray, IterationWork


@register_component("dram")
class DramPower(PowerComponent):
    """Idle power of the DIMMs that make up ``cpu_mem``, and energy for what NPUs load and store there."""

    def __init__(self, node: PoweredNode) -> None:
        section = node.power.section.dram
        self.base_w = node.power.dimms * section.idle_power
        self._j_per_byte = section.energy_per_bit * J_PER_BYTE_OF_PJ_PER_BIT

    def energy_per_byte(self, work: IterationWork) -> FloatArray:
        """Loads and stores of all NPUs."""
        return work.memory_accesses(HOST_MEMORY) * self._j_per_byte

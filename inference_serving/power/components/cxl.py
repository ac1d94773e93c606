"""A node's part in the CXL pool: a constant for each device that it feeds, and energy for each bit its NPUs move."""

from __future__ import annotations

import numpy as np

from inference_serving.placement import Place
from inference_serving.power.component import (
    J_PER_BYTE_OF_PJ_PER_BIT,
    PowerComponent,
    PoweredNode,
    register_component,
)
from inference_serving.power.iteration_work import FloatArray, IterationWork
from inference_serving.power.schema import CxlPowerSection


class CxlPower(PowerComponent):
    """Idle power of the devices, and energy for what the node's NPUs load from the pool and store there."""

    def __init__(self, section: CxlPowerSection) -> None:
        self.base_w = section.num_devices * section.idle_power
        self._j_per_byte = section.energy_per_bit * J_PER_BYTE_OF_PJ_PER_BIT

    def energy_per_byte(self, work: IterationWork) -> FloatArray:
        """Loads and stores of weights, KV and prefixes, on whichever device."""
        moved = np.zeros(work.shape.size_slots)
        placement = work.shape.instance.placement
        for device in range(placement.cxl_devices):
            moved += work.memory_accesses(placement.memory_of(Place("cxl", device)))
        return moved * self._j_per_byte


@register_component("cxl")
def cxl(node: PoweredNode) -> CxlPower | None:
    """The pool as the node's power block describes it; None if it does not."""
    section = node.power.section.cxl
    return None if section is None else CxlPower(section)

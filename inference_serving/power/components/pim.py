"""Channels of host memory that compute: active while they run attention; idle, they are DRAM as any."""

from __future__ import annotations

from inference_serving.power.component import PowerComponent, PoweredNode, register_component
from inference_serving.power.iteration_work import FloatArray, IterationWork


class PimPower(PowerComponent):
    """Active minus idle power of each channel over the time in which it computes.

    The idle power is not here: the channels are the DIMMs whose idle power ``dram`` has.
    """

    def __init__(self, dynamic_w: float) -> None:
        self._j_per_ns = dynamic_w * 1e-9

    def energy_per_ns(self, work: IterationWork) -> FloatArray:
        """Every channel of every rank; a node of the graph stands for those that work in unison."""
        pim = work.shape.instance.pim
        return work.pim_runs() * (self._j_per_ns * (pim.unison if pim is not None else 0))


@register_component("pim")
def pim(node: PoweredNode) -> PimPower | None:
    """The channels of a node's host memory, if attention is offloaded to it."""
    if node.node.pim is None:
        return None
    device = node.node.pim.device
    return PimPower(device.active_w - device.idle_w)

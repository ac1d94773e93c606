"""Links between NPUs: a constant for each, and energy for each bit sent."""

from __future__ import annotations

from inference_serving.power.component import (
    J_PER_BYTE_OF_PJ_PER_BIT,
    PowerComponent,
    PoweredNode,
    register_component,
)
from inference_serving.power.iteration_work import FloatArray, IterationWork


@register_component("link")
class LinkPower(PowerComponent):
    """Idle power of the links, and energy for collectives and messages, at the node that sends them."""

    def __init__(self, node: PoweredNode) -> None:
        section = node.power.section.link
        self.base_w = section.num_links * section.idle_power
        self._j_per_byte = section.energy_per_bit * J_PER_BYTE_OF_PJ_PER_BIT

    def energy_per_byte(self, work: IterationWork) -> FloatArray:
        """What all NPUs of the instance send."""
        return self._j_per_byte * work.bytes_sent()

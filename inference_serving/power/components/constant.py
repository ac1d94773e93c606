"""Parts that draw the same whatever happens: the board and its fans, network cards, drives."""

from __future__ import annotations

from inference_serving.power.component import PowerComponent, PoweredNode, register_component


class ConstantPower(PowerComponent):
    """Draws ``base_w`` at all times."""

    def __init__(self, base_w: float) -> None:
        self.base_w = base_w


@register_component("base_node")
def base_node(node: PoweredNode) -> ConstantPower:
    """Everything that is not another part."""
    return ConstantPower(node.power.section.base_node_power)


@register_component("nic")
def nic(node: PoweredNode) -> ConstantPower:
    """Network cards."""
    section = node.power.section.nic
    return ConstantPower(section.num_nics * section.idle_power)


@register_component("storage")
def storage(node: PoweredNode) -> ConstantPower:
    """Drives."""
    section = node.power.section.storage
    return ConstantPower(section.num_devices * section.idle_power)

"""The host's processors: power rises in proportion to utilization."""

from __future__ import annotations

from inference_serving.power.component import PowerComponent, PoweredNode, register_component

SERVING_UTILIZATION = 0.7
"""Utilization of the host while it feeds NPUs (LLMServingSim 2.0)."""


@register_component("cpu")
class CpuPower(PowerComponent):
    """``util`` of the range from idle to active at all times, at least 0.7 of it while an instance runs.

    The linear model is that of Fan, Weber and Barroso (ISCA 2007).
    """

    def __init__(self, node: PoweredNode) -> None:
        section = node.power.section.cpu
        dynamic_w = section.active_power - section.idle_power
        self.base_w = section.idle_power + section.util * dynamic_w
        self.running_w = max(SERVING_UTILIZATION - section.util, 0.0) * dynamic_w

"""NPUs: idle, on standby around their work, active in their layers."""

from __future__ import annotations

from inference_serving.cluster import InstanceSpec
from inference_serving.power.component import Occupancy, PowerComponent, PoweredNode, register_component
from inference_serving.power.iteration_work import FloatArray, IterationWork


@register_component("npu")
class NpuPower(PowerComponent):
    """Idle power of every NPU; standby power in an iteration and for ``standby_duration`` after it; active
    power over the layers' time. All-reduces, host memory and step overhead are waited for on standby.
    """

    def __init__(self, node: PoweredNode) -> None:
        self._kinds = node.power.section.npu
        self.base_w = sum(len(one.npus) * self._kinds[one.hardware].idle_power for one in node.instances)

    def occupancy(self, instance: InstanceSpec) -> Occupancy:
        """Standby instead of idle, on all NPUs of the instance."""
        kind = self._kinds[instance.hardware]
        power_w = len(instance.npus) * (kind.standby_power - kind.idle_power)
        return Occupancy(power_w, round(kind.standby_duration * 1e9))

    def energy_per_ns(self, work: IterationWork) -> FloatArray:
        """Active instead of standby, for each layer on each NPU."""
        kind = self._kinds[work.shape.instance.hardware]
        return work.compute_runs() * ((kind.active_power - kind.standby_power) * 1e-9)

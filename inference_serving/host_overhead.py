"""Host time before an iteration: what a step of the serving engine costs beside the layers."""

from __future__ import annotations

from dataclasses import dataclass

from inference_serving.layer_group import LayerGroup
from inference_serving.settings import SimulationConfig
from llm_profile.latency import LatencyModel


@dataclass(frozen=True, slots=True)
class HostOverhead:
    """Host time of a step, and of the return to the scheduler between two layer groups; ns."""

    step_ns: int
    layer_group_ns: int

    @staticmethod
    def of(config: SimulationConfig, latency: LatencyModel) -> HostOverhead:
        """What the run's settings say; by default what the latencies come with."""
        step_ns = latency.step_overhead_ns if config.step_overhead_ns is None else config.step_overhead_ns
        group_ns = config.layer_group_overhead_ns
        return HostOverhead(step_ns, step_ns if group_ns is None else group_ns)

    def before(self, layer_group: LayerGroup) -> int:
        """Host time before a batch (the first layer group of one, or a later one) runs."""
        return self.step_ns if layer_group.is_first else self.layer_group_ns

"""Flags that change nothing in a run: scripts pass them to every model, so they are noted, not refused."""

from __future__ import annotations

from collections.abc import Iterator

from inference_serving.cluster import Cluster
from inference_serving.policies import policy_names
from inference_serving.settings import SimulationConfig


def idle_flag_notes(config: SimulationConfig, cluster: Cluster) -> Iterator[str]:
    """One line for each flag that no instance of the cluster looks at, although it differs from its default."""
    default = SimulationConfig()
    routing = config.expert_routing_policy, config.expert_routing_args
    if routing != (default.expert_routing_policy, default.expert_routing_args) and not any(
        spec.model.is_moe for spec in cluster.instances
    ):
        yield (
            f"--expert-routing-policy {config.expert_routing_policy} has no effect: "
            "no instance serves a mixture of experts"
        )
    policies = {spec.scheduler.scheduling_policy for spec in cluster.instances}
    if config.layer_group_overhead_ns is not None and policies <= set(policy_names()):
        yield (
            "--layer-group-overhead has no effect: "
            f"{' and '.join(sorted(policies))} scheduling never cuts an iteration into layer groups"
        )

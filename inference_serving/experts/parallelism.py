"""Which ways there are to spread experts and to form data-parallel groups; everything else is refused."""

from __future__ import annotations

from collections.abc import Callable

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, InstanceSpec, Role
from inference_serving.settings import SimulationConfig
from llm_profile.model_config import ModelConfig


def checked_ep_size(model: ModelConfig, ep_size: int, npus: int, group_npus: int) -> int:
    """``ep_size``, if an instance of ``npus`` NPUs in a group with ``group_npus`` (0: in none) can have it.

    With pipeline stages: NPUs of one stage, of the instance and of the group.

    Raises InputError without a file, with the field of the instance.
    """
    allowed = sorted({1, npus, group_npus or 1})
    error = None
    if ep_size > 1 and not model.is_moe:
        error = f"{model.name} has no experts to spread; remove the field"
    elif ep_size not in allowed:
        error = (
            f"experts are split (1) or spread over all NPUs of the instance ({npus})"
            f"{f' or of its dp_group ({group_npus})' if group_npus else ''}; use one of "
            f"{', '.join(map(str, allowed))}"
        )
    elif ep_size > 1 and model.num_experts % ep_size:
        error = f"{model.name} has {model.num_experts} experts, which {ep_size} NPUs cannot share evenly"
    if error is not None:
        raise InputError("", "ep_size", f"{ep_size}: {error}")
    uneven = [width for width in (model.moe_intermediate_size, model.shared_expert_width) if width % npus]
    if model.is_moe and ep_size == 1 and uneven:
        raise InputError(
            "",
            "npu_num",
            f"{npus}: {model.name} has experts of width {uneven[0]}, which {npus} NPUs cannot "
            "share evenly; use another number, or spread whole experts with ep_size",
        )
    return ep_size


def check_groups(cluster: Cluster, config: SimulationConfig) -> None:
    """Refuse data-parallel groups that are not alike, or that run with what has no waves."""
    for group in cluster.dp_groups():
        reason = _unlike(group) or _without_waves(group, config)
        if reason is not None:
            raise InputError(cluster.file, "nodes[].instances[].dp_group", f"{group[0].dp_group!r}: {reason}")


def _unlike(group: tuple[InstanceSpec, ...]) -> str | None:
    first = group[0]
    facts: dict[str, Callable[[InstanceSpec], object]] = {
        "model_name": lambda spec: spec.model,
        "hardware": lambda spec: spec.hardware,
        "NPUs": lambda spec: spec.tp_size,
        "pipeline stages": lambda spec: spec.partition,
        "ep_size": lambda spec: spec.ep_size,
        "dtype and kv_cache_dtype": lambda spec: spec.precision,
        "mem_bw": lambda spec: spec.mem_bw_gbps,
    }
    for name, fact in facts.items():
        if any(fact(spec) != fact(first) for spec in group):
            return f"its instances must have the same {name}"
    return None


def _without_waves(group: tuple[InstanceSpec, ...], config: SimulationConfig) -> str | None:
    reasons = {
        "data parallelism with pd_type is not supported yet; set pd_type to null": any(
            spec.role is not Role.COLOCATED for spec in group
        ),
        "data parallelism with asynchronous scheduling is not supported yet; turn it off": any(
            spec.scheduler.async_scheduling for spec in group
        ),
        "data parallelism needs this project's engine; drop --engine-binary": config.engine_binary
        is not None,
        "kv_evict_loc is not supported yet for data-parallel groups; set it to npu in each placement": any(
            spec.placement.swaps for spec in group
        ),
        "--prefix-storage is not supported yet for data-parallel groups; drop the flag": (
            config.prefix_storage is not None
        ),
        "data parallelism with --dump-traces is not supported yet; drop the flag": config.dump is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)

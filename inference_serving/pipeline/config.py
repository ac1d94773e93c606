"""Which pipelines a cluster config may ask for; everything else is refused."""

from __future__ import annotations

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, InstanceSpec, Role
from inference_serving.cluster_schema import InstanceSection
from inference_serving.pipeline.stage import even_partition
from inference_serving.policies import policy_names
from inference_serving.settings import SimulationConfig
from llm_profile.model_config import ModelConfig


def checked_partition(model: ModelConfig, section: InstanceSection) -> tuple[int, ...]:
    """Blocks of each stage of an instance; empty without pipeline parallelism.

    Raises InputError without a file, with the field of the instance.
    """
    stages, given = section.pipeline_groups, section.pp_layer_partition
    blocks = model.num_hidden_layers
    if given is not None:
        if len(given) != stages:
            raise InputError(
                "",
                "pp_layer_partition",
                f"{given}: gives the blocks of {len(given)} stage(s), but the instance has {stages}; give {stages}",
            )
        if sum(given) != blocks:
            raise InputError(
                "",
                "pp_layer_partition",
                f"{given}: is {sum(given)} blocks, but {model.name} has {blocks}; the numbers must add up to {blocks}",
            )
    if stages == 1:
        return ()
    if given is not None:
        return tuple(given)
    try:
        return even_partition(blocks, stages)
    except ValueError as error:
        field = "pp_size" if section.pp_size else "npu_group"
        raise InputError("", field, f"{stages}: {model.name}: {error}") from None


def check_pipelines(cluster: Cluster, config: SimulationConfig) -> None:
    """Refuse what does not go together with pipeline stages."""
    for spec in cluster.instances:
        reason = _alone(spec, config) if spec.pp_size > 1 else None
        if reason is not None:
            field, message = reason
            index = cluster.on_node(spec.node_id).index(spec)
            where = f"nodes[{spec.node_id}].instances[{index}].{field}"
            raise InputError(cluster.file, where, message)


def _alone(spec: InstanceSpec, config: SimulationConfig) -> tuple[str, str] | None:
    """Field and reason of something that an instance with stages cannot have."""
    settings, stages = spec.scheduler, f"pipeline parallelism ({spec.pp_size} stages)"
    if settings.async_scheduling:
        return (
            "async_scheduling",
            f"true: batches are formed ahead by {stages} already; set it (here, or by --no-async-scheduling) to false",
        )
    if spec.role is not Role.DECODE and settings.scheduling_policy not in policy_names():
        return (
            "scheduling_policy",
            f"{settings.scheduling_policy}: prefill policies need each iteration's end before the next, which {stages} "
            f"does not wait for; use one of {', '.join(policy_names())}",
        )
    if spec.interleaves:
        return (
            "pp_size",
            f"{spec.pp_size}: --enable-sub-batch-interleaving is not supported yet with {stages}; drop one of the two",
        )
    if settings.speculation is not None:
        return (
            "num_speculative_tokens",
            f"{settings.speculation.num_tokens}: with {stages} the next batch would have to know how many drafts of "
            "those on their way are accepted; set it (here, or by --num-speculative-tokens) to 0",
        )
    if config.wait_ledger:
        return (
            "pp_size",
            f"{spec.pp_size}: --wait-ledger accounts for one iteration at a time, stages run several; drop the flag",
        )
    return None

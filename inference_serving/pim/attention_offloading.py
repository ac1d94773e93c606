"""Attention offloading in a cluster config: which instances do it, where their KV is then, and what is refused.

An offloaded instance keeps all KV in its node's host memory, whose channels run the attention of decoding requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.cluster import InstanceSpec
from inference_serving.cluster_schema import CpuMemory, InstanceSection
from inference_serving.memory_model import GIB
from inference_serving.pim.device import load_device
from inference_serving.pim_model import PimSpec, channels_in_unison
from inference_serving.placement import CPU, Placement, PlacementSection
from inference_serving.settings import SchedulerSettings, SimulationConfig
from llm_profile.model_config import ModelConfig

_FLAG = "--enable-attn-offloading"


def pim_of_node(file: Path, field: str, memory: CpuMemory, config: SimulationConfig) -> PimSpec | None:
    """The computing channels of a node's host memory; None if it has none, or attention is not offloaded.

    The device is read either way, so that a broken file does not wait for the flag. ``field`` is that of ``memory``.
    """
    if memory.pim_config is None:
        return None
    try:
        device = load_device(memory.pim_config)
        pim = PimSpec.of(device, int(memory.mem_size * GIB))
    except InputError as error:
        if error.file:
            raise
        raise InputError(file, f"{field}.pim_config", error.message) from None
    except ValueError as error:
        raise InputError(file, f"{field}.mem_size", str(error)) from None
    return pim if config.attn_offloading else None


def pim_of_instance(
    file: Path, path: str, section: InstanceSection, config: SimulationConfig, pim: PimSpec | None
) -> PimSpec | None:
    """The channels that run an instance's decode attention: those of its node, ``pim``, if it decodes at all.

    Raises InputError for what cannot be combined with it.
    """
    if not config.attn_offloading or section.pd_type == "prefill":
        return None
    if pim is None:
        node = path.partition(".")[0]
        raise InputError(
            file,
            f"{node}.cpu_mem.pim_config",
            f"is missing, but {_FLAG} needs memory that computes on every node that decodes; name a device, such as "
            "DDR4_8GB_3200_pim, or drop the flag",
        )
    if section.dp_group is not None:
        raise InputError(
            file,
            f"{path}.dp_group",
            f"{section.dp_group!r}: {_FLAG} is not supported yet for data-parallel groups; drop one of the two",
        )
    return pim


def in_unison(pim: PimSpec | None, instances: Sequence[InstanceSpec]) -> list[InstanceSpec]:
    """Instances of one node, which now know how many of its channels ``pim`` always work alike."""
    users = [(spec.model, spec.tp_size) for spec in instances if spec.pim is not None]
    if pim is None or not users:
        return list(instances)
    together = replace(pim, unison=channels_in_unison(pim, users))
    return [replace(spec, pim=None if spec.pim is None else together) for spec in instances]


def check_offloaded(file: Path, path: str, model: ModelConfig, settings: SchedulerSettings) -> None:
    """Refuse a model that memory has no times for, and scheduler settings that an offloaded instance cannot follow."""
    if model.is_mla:
        raise InputError(
            file,
            f"{path}.model_name",
            f"{model.name}: {_FLAG} has no times for latent attention, which computes with one cached vector for all "
            "heads; drop the flag, or use a model with K/V heads",
        )
    if settings.enable_prefix_caching:
        raise InputError(
            file,
            f"{path}.enable_prefix_caching",
            f"true: with {_FLAG} a prefix is in the channels of the request that computed it, where no other request "
            "can use it; set it (here, or by --no-enable-prefix-caching) to false",
        )


def with_kv_in_memory(
    file: Path, path: str, section: PlacementSection | None, placement: Placement
) -> Placement:
    """A placement with all KV in host memory; raises InputError if the config says that it is elsewhere."""
    if section is not None:
        entries = (section.default, *section.blocks, *section.layers.values())
        named = next((one.kv_loc for one in entries if one.kv_loc not in (None, "cpu")), None)
        if named is not None:
            raise InputError(
                file,
                f"{path}.placement",
                f"kv_loc: {named}: {_FLAG} keeps KV in host memory, where attention runs; set it to cpu",
            )
    blocks = tuple(places._replace(kv=CPU) for places in placement.blocks)
    return replace(placement, blocks=blocks)

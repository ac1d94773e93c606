"""From a cluster config file to a checked :class:`Cluster`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from astra_sim.input_error import InputError, read_json_object, validated
from inference_serving.cluster import Cluster, CxlSpec, InstanceSpec, NodeSpec, Role
from inference_serving.cluster_schema import ClusterSection, InstanceSection, NodeSection
from inference_serving.experts.parallelism import check_groups, checked_ep_size
from inference_serving.memory_model import GIB, MemoryPlan, Precision
from inference_serving.memory_places import settle_places
from inference_serving.network_builder import build_network
from inference_serving.pim.attention_offloading import (
    check_offloaded,
    in_unison,
    pim_of_instance,
    pim_of_node,
    with_kv_in_memory,
)
from inference_serving.pim_model import PimSpec
from inference_serving.pipeline.config import check_pipelines, checked_partition
from inference_serving.pipeline.memory import Layout, tightest_plan
from inference_serving.placement import Placement, all_on_npu, resolve
from inference_serving.policies import check_policy, is_policy, policy_names
from inference_serving.policies.options import parse_pairs
from inference_serving.power.schema import NodePower
from inference_serving.precision import kv_bits_of, weight_bits_of
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.speculation.options import refuse_with_speculation, speculation_of_instance
from llm_profile.layers import check_tp_size
from llm_profile.model_config import ModelConfig, load_model_config

_ROLES = {None: Role.COLOCATED, "prefill": Role.PREFILL, "decode": Role.DECODE}


def load_cluster(file: Path, config: SimulationConfig) -> Cluster:
    """Read, check and resolve a cluster config; every problem is an :class:`InputError` with its field."""
    section = validated(ClusterSection, read_json_object(file), file)
    cluster = _Builder(file, config).build(section)
    _check_pairs(cluster)
    check_groups(cluster, config)
    check_pipelines(cluster, config)
    return cluster


class _Builder:
    """Numbers NPUs and instances in file order while it resolves them."""

    def __init__(self, file: Path, config: SimulationConfig) -> None:
        self._file = file
        self._config = config
        self._npus = 0
        self._cxl: CxlSpec | None = None
        self._pim: PimSpec | None = None
        self._instances: list[InstanceSpec] = []
        self._group_npus: Counter[str] = Counter()

    def build(self, section: ClusterSection) -> Cluster:
        pool = section.cxl_mem
        if pool is not None:
            self._cxl = CxlSpec(pool.num_devices, int(pool.mem_size * GIB), pool.mem_bw, pool.mem_latency)
        for node in section.nodes:
            for one in node.instances:
                if one.dp_group is not None:
                    self._group_npus[one.dp_group] += one.tensor_parallel
        nodes = tuple(self._node(index, node) for index, node in enumerate(section.nodes))
        network = build_network(self._file, section, [len(node.npus) for node in nodes])
        cluster = Cluster(
            self._file,
            tuple(self._instances),
            nodes,
            network,
            wired=section.topology is not None,
            cxl=self._cxl,
            local_offloading=self._config.local_offloading,
        )
        return settle_places(cluster)

    def _node(self, node_id: int, node: NodeSection) -> NodeSpec:
        first, known, field = self._npus, len(self._instances), f"nodes[{node_id}].cpu_mem"
        self._pim = pim_of_node(self._file, field, node.cpu_mem, self._config)
        for index, instance in enumerate(node.instances):
            self._instances.append(self._instance(node_id, f"nodes[{node_id}].instances[{index}]", instance))
        self._instances[known:] = in_unison(self._pim, self._instances[known:])
        return NodeSpec(
            node_id,
            tuple(range(first, self._npus)),
            node.cpu_mem.mem_bw,
            node.cpu_mem.mem_latency,
            int(node.cpu_mem.mem_size * GIB),
            NodePower.of(node.power, node.cpu_mem.mem_size) if node.power is not None else None,
            self._pim,
        )

    def _instance(self, node_id: int, path: str, section: InstanceSection) -> InstanceSpec:
        model = self._model(path, section)
        if not model.is_moe:  # its data-parallel ranks share nothing, so none waits for another
            section = section.model_copy(update={"dp_group": None})
        npus = tuple(range(self._npus, self._npus + section.npu_count))
        self._npus += section.npu_count
        try:
            check_tp_size(model, section.tensor_parallel)
        except InputError as error:
            raise InputError(self._file, f"{path}.npu_num", f"{model.name}: {error.message}") from None
        try:
            partition = checked_partition(model, section)
        except InputError as error:
            raise InputError(self._file, f"{path}.{error.field}", error.message) from None
        settings = self._settings(path, section)
        precision = self._precision(path, section)
        pim = pim_of_instance(self._file, path, section, self._config, self._pim)
        placement = self._placement(path, section, model)
        if pim is not None:
            check_offloaded(self._file, path, model, settings)
            placement = with_kv_in_memory(self._file, path, section.placement, placement)
        ep_size = self._ep_size(path, section, model)
        layout = Layout(model, section.tensor_parallel, placement, ep_size, partition)
        return InstanceSpec(
            instance_id=len(self._instances),
            node_id=node_id,
            role=_ROLES[section.pd_type],
            model=model,
            hardware=section.hardware,
            npus=npus,
            mem_bw_gbps=section.npu_mem.mem_bw,
            memory=self._memory(path, section, layout, precision, settings.block_size),
            precision=precision,
            scheduler=settings,
            placement=placement,
            mem_latency_ns=section.npu_mem.mem_latency,
            ep_size=ep_size,
            dp_group=section.dp_group,
            pim=pim,
            interleaves=pim is not None and self._config.sub_batch_interleaving,
            partition=partition,
        )

    def _model(self, path: str, section: InstanceSection) -> ModelConfig:
        try:
            model = load_model_config(section.model_name)
        except InputError as error:
            if error.file:
                raise
            raise InputError(self._file, f"{path}.model_name", error.message) from None
        return model

    def _placement(self, path: str, section: InstanceSection, model: ModelConfig) -> Placement:
        loads_local = self._config.local_offloading
        devices = self._cxl.devices if self._cxl is not None else 0
        if section.placement is None:
            return all_on_npu(model, loads_local=loads_local, cxl_devices=devices)
        try:
            placement = resolve(section.placement, model, loads_local=loads_local, cxl_devices=devices)
        except ValueError as error:
            raise InputError(self._file, f"{path}.placement", str(error)) from None
        if section.pd_type == "decode" and not placement.keeps_kv:
            raise InputError(
                self._file,
                f"{path}.placement",
                "kv_loc: KV lands on the NPUs of a decode instance; set it to npu",
            )
        return placement

    def _ep_size(self, path: str, section: InstanceSection, model: ModelConfig) -> int:
        """Ranks over which the experts are spread; whatever does not divide evenly is refused."""
        group = self._group_npus.get(section.dp_group or "", 0)
        try:
            return checked_ep_size(model, section.ep_size or 1, section.tensor_parallel, group)
        except InputError as error:
            raise InputError(self._file, f"{path}.{error.field}", error.message) from None

    def _settings(self, path: str, section: InstanceSection) -> SchedulerSettings:
        """The command line's scheduler settings, overridden by those that the instance gives itself."""
        names = (
            "max_num_batched_tokens",
            "long_prefill_token_threshold",
            "enable_chunked_prefill",
            "reserve_full_isl",
            "prioritize_prefill",
            "enable_prefix_caching",
            "async_scheduling",
            "scheduling_policy",
            "block_size",
        )
        own = {name: value for name in names if (value := getattr(section, name)) is not None}
        limit = section.max_num_seqs if section.max_num_seqs is not None else section.max_batch
        if limit is not None:
            own["max_num_seqs"] = limit
        settings = replace(self._config.scheduler, **own)
        if settings.long_prefill_token_threshold and not settings.enable_chunked_prefill:
            raise InputError(
                self._file,
                f"{path}.long_prefill_token_threshold",
                f"{settings.long_prefill_token_threshold}: needs chunked prefill; set it (here, or by "
                "--long-prefill-token-threshold) to 0, or enable chunked prefill",
            )
        if settings.async_scheduling and section.pd_type is not None:
            raise InputError(
                self._file,
                f"{path}.async_scheduling",
                f"true: is not supported yet for {section.pd_type} instances; set it (here, or by "
                "--no-async-scheduling) to false",
            )
        return self._with_speculation(path, section, self._with_policy(path, section, settings))

    def _with_policy(
        self, path: str, section: InstanceSection, settings: SchedulerSettings
    ) -> SchedulerSettings:
        """Settings with the options of the instance's policy; those of the flags are the flags' policy's."""
        try:
            if section.policy_args is not None or section.scheduling_policy is not None:
                pairs = parse_pairs(section.policy_args or "")
                settings = replace(settings, policy_args=tuple(pairs.items()))
            check_policy(settings.scheduling_policy, dict(settings.policy_args))
        except ValueError as error:
            field = "policy_args" if is_policy(settings.scheduling_policy) else "scheduling_policy"
            raise InputError(self._file, f"{path}.{field}", str(error)) from None
        if settings.scheduling_policy not in policy_names() and settings.async_scheduling:
            raise InputError(
                self._file,
                f"{path}.async_scheduling",
                f"true: {settings.scheduling_policy} needs each iteration's end; use one of "
                f"{', '.join(policy_names())}, or set it (here, or by --no-async-scheduling) to false",
            )
        if settings.scheduling_policy not in policy_names() and not settings.enable_chunked_prefill:
            raise InputError(
                self._file,
                f"{path}.enable_chunked_prefill",
                f"false: {settings.scheduling_policy} works in chunks; set it to true",
            )
        return settings

    def _with_speculation(
        self, path: str, section: InstanceSection, settings: SchedulerSettings
    ) -> SchedulerSettings:
        try:
            speculation = speculation_of_instance(section, settings.speculation)
            settings = replace(settings, speculation=speculation)
            refuse_with_speculation(section, settings, self._config)
        except InputError as error:
            raise InputError(self._file, f"{path}.{error.field}", error.message) from None
        return settings

    def _precision(self, path: str, section: InstanceSection) -> Precision:
        weight_bits, field = self._config.weight_bits, "dtype"
        try:
            if section.dtype is not None:
                weight_bits = weight_bits_of(section.dtype, weight_bits)
            kv_bits = self._config.kv_bits or weight_bits
            field = "kv_cache_dtype"
            if section.kv_cache_dtype is not None:
                kv_bits = kv_bits_of(section.kv_cache_dtype, weight_bits)
        except ValueError as error:
            raise InputError(self._file, f"{path}.{field}", str(error)) from None
        return Precision(weight_bits, kv_bits)

    def _memory(
        self,
        path: str,
        section: InstanceSection,
        layout: Layout,
        precision: Precision,
        block_size: int,
    ) -> MemoryPlan:
        memory = section.npu_mem
        utilization = memory.mem_util or self._config.npu_memory_utilization
        plan, stage = tightest_plan(layout, precision, block_size, memory.mem_size, utilization)
        stated = memory.kv_blocks or self._config.num_gpu_blocks_override
        if stated is not None:
            return replace(plan, stated_kv_blocks=stated)
        if plan.weight_bytes + plan.kv_bytes_per_block > plan.usable_bytes:
            raise InputError(
                self._file,
                f"{path}.npu_mem.mem_size",
                f"{memory.mem_size:g} GB: {layout.model.name} over {section.npu_count} NPU(s){stage} needs "
                f"{plan.weight_bytes / GIB:.3f} GB for weights and {plan.kv_bytes_per_block / GIB:.3f} GB for a "
                f"KV block on each, but only {plan.usable_bytes / GIB:.3f} GB are usable "
                f"(utilization {utilization:g}); use more NPUs, more memory or fewer bits",
            )
        return plan


def _check_pairs(cluster: Cluster) -> None:
    """Prefill and decode instances come together, and serve the same model in the same precision."""
    prefill, decode = cluster.with_role(Role.PREFILL), cluster.with_role(Role.DECODE)
    if bool(prefill) != bool(decode):
        have, lack = ("prefill", "decode") if prefill else ("decode", "prefill")
        raise InputError(
            cluster.file,
            "nodes[].instances[].pd_type",
            f"there is a {have} instance but no {lack} instance to pair it with; add one, or set pd_type to null",
        )
    paired = prefill + decode
    if len({spec.model for spec in paired}) > 1:
        names = sorted({spec.model.name for spec in paired})
        raise InputError(
            cluster.file,
            "nodes[].instances[].model_name",
            "prefill and decode instances must serve one model, not "
            + (", ".join(names) if len(names) > 1 else f"different ones named {names[0]!r}"),
        )
    kinds = sorted({(spec.precision.weight_bits, spec.precision.kv_bits) for spec in paired})
    if len(kinds) > 1:
        found = " and ".join(f"{weights}-bit weights with {kv}-bit KV" for weights, kv in kinds)
        raise InputError(
            cluster.file,
            "nodes[].instances[].dtype",
            f"prefill and decode instances must use one precision, not {found}; set dtype and kv_cache_dtype alike",
        )

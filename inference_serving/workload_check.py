"""Holds a workload against a cluster before the run: what can never be served is an error now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster, InstanceSpec, Role
from inference_serving.logger import log
from inference_serving.request_spec import RequestSpec


def fit_workload(file: Path, workload: Sequence[RequestSpec], cluster: Cluster) -> list[RequestSpec]:
    """Check every request against every instance that may get it; return the workload to simulate.

    Output that would run past the model's context is cut there, as a real engine does, with a warning.
    Raises InputError for a prompt that does not fit the context, the token budget or the KV cache.
    """
    if cluster.with_role(Role.PREFILL) and any(spec.scheduler.skip_prefill for spec in cluster.instances):
        raise InputError(
            cluster.file, "pd_type", "--gen turns the prefill phase off, so there can be no prefill instance"
        )
    context = min(spec.model.max_position_embeddings for spec in cluster.instances)
    fitted = [_fit_context(file, request, context) for request in workload]
    cut = sum(
        before.output_tokens != after.output_tokens for before, after in zip(workload, fitted, strict=True)
    )
    if cut:
        log.warning("%s: the output of %d request(s) is cut at the context of %d tokens", file, cut, context)
    for spec in cluster.instances:
        _check_instance(file, fitted, spec)
    return fitted


def _fit_context(file: Path, request: RequestSpec, context: int) -> RequestSpec:
    if request.input_tokens >= context:
        raise InputError(
            file,
            f"request {request.request_id}: input_toks",
            f"{request.input_tokens}: the prompt must be shorter than the model's context of {context} tokens",
        )
    return replace(request, output_tokens=min(request.output_tokens, context - request.input_tokens))


def _check_instance(file: Path, workload: Sequence[RequestSpec], spec: InstanceSpec) -> None:
    settings, capacity = spec.scheduler, spec.memory.kv_blocks * spec.scheduler.block_size
    for request in workload:
        longest = request.input_tokens + request.output_tokens
        needed = request.input_tokens if spec.role is Role.PREFILL else longest
        if needed > capacity:
            raise InputError(
                file,
                f"request {request.request_id}: input_toks",
                f"{request.input_tokens} and {request.output_tokens} output tokens need {needed} tokens of KV, "
                f"but instance {spec.instance_id} holds {capacity}; use more NPU memory or shorter requests",
            )
        # without chunks a preempted request is recomputed at its full length in one iteration
        whole = longest if spec.role is not Role.PREFILL else request.input_tokens
        if not settings.enable_chunked_prefill and whole > settings.token_budget:
            raise InputError(
                file,
                f"request {request.request_id}: input_toks",
                f"{request.input_tokens}: without chunked prefill, prompt and output ({whole} tokens) must fit "
                f"into --max-num-batched-tokens {settings.max_num_batched_tokens}",
            )

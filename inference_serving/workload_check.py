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
    caching = any(spec.scheduler.enable_prefix_caching for spec in cluster.instances)
    if caching and all(request.input_token_ids is None for request in fitted):
        raise InputError(
            file,
            "input_tok_ids",
            "no request has token ids, so prefix caching can find nothing; add them, or drop --enable-prefix-caching",
        )
    return fitted


def _name(request: RequestSpec) -> str:
    session = request.session
    where = "" if session is None else f" (turn {session.turn} of session {session.session_id})"
    return f"request {request.request_id}{where}"


def _fit_context(file: Path, request: RequestSpec, context: int) -> RequestSpec:
    if request.input_tokens >= context:
        raise InputError(
            file,
            f"{_name(request)}: input_toks",
            f"{request.input_tokens}: the prompt must be shorter than the model's context of {context} tokens",
        )
    room = context - request.input_tokens
    return replace(request, output_tokens=room) if request.output_tokens > room else request


def _check_instance(file: Path, workload: Sequence[RequestSpec], spec: InstanceSpec) -> None:
    settings, capacity = spec.scheduler, spec.memory.kv_blocks * spec.scheduler.block_size
    for request in workload:
        if spec.role is Role.DECODE and request.output_tokens == 1:
            continue  # it ends where its prompt runs
        # the last token is never computed, so it needs no KV
        generated = 0 if spec.role is Role.PREFILL else request.output_tokens - 1
        needed = request.input_tokens + generated
        what = f"{request.input_tokens} prompt tokens" + (
            f" and {generated} generated ones" if generated else ""
        )
        if needed > capacity:
            raise InputError(
                file,
                f"{_name(request)}: input_toks",
                f"{what} need KV of {needed} tokens, but instance {spec.instance_id} holds {capacity}; "
                "use more NPU memory or shorter requests",
            )
        # without chunks a preempted request is recomputed at its full length in one iteration
        if not settings.enable_chunked_prefill and needed > settings.token_budget:
            raise InputError(
                file,
                f"{_name(request)}: input_toks",
                f"{what} must run in one iteration without chunked prefill, but instance {spec.instance_id} takes "
                f"{settings.max_num_batched_tokens}; raise max_num_batched_tokens",
            )

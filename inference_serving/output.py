"""Results out: what a run was, its summary on stdout and the same facts as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inference_serving.cluster import Cluster, Role
from inference_serving.kv_cache import PrefixStatistics
from inference_serving.metrics import (
    Distribution,
    LatencySummary,
    RequestMetrics,
    ThroughputSummary,
    request_metrics,
    summarise,
    throughput,
)
from inference_serving.pim_model import PimSpec
from inference_serving.pipeline.report import PipelineSummary
from inference_serving.power.report import EnergyReport, energy_facts, energy_lines
from inference_serving.session_summary import SessionSummary, session_facts, session_lines, summarise_sessions
from inference_serving.simulation import Simulation
from inference_serving.slowdown import ClassSummary, Fairness, PrefillFacts, by_class
from inference_serving.speculation.drafts import DraftStatistics, draft_facts, draft_lines
from inference_serving.tiers.kv_tiers import KvTiers
from inference_serving.tiers.prefix_pool import PrefixPool
from inference_serving.tiers.report import (
    pool_facts,
    pool_lines,
    pools_of,
    prefix_facts,
    tier_facts,
    tier_lines,
)
from inference_serving.wait_ledger import Account
from llm_profile.latency import Source

_NS_PER_MS = 1e6
_WIDTH = 58


@dataclass(frozen=True, slots=True)
class InstanceSummary:
    """What one instance did; latencies are those of the requests that finished there."""

    instance_id: int
    role: str
    model: str
    hardware: str
    npus: int
    pim: PimSpec | None
    latency_source: str
    provenance: Mapping[Source, float]
    """Share of the compute time by how its latencies came about; empty before the first iteration."""
    iterations: int
    busy_ns: int
    """Time of all iterations together, host overhead included."""
    preemptions: int
    kv_blocks: int
    peak_kv_blocks: int
    prefix: PrefixStatistics | None
    """What prefix caching found; None without it."""
    tiers: KvTiers | None
    """What was kept beyond the NPUs, and found there; None: nothing is."""
    drafts: DraftStatistics | None
    """What became of speculation's drafts; None without it."""
    peak_paused_kv_blocks: int
    """Most KV blocks that half-done prompts held while they were not running."""
    latency: LatencySummary
    pipeline: PipelineSummary | None = None
    """Its pipeline stages; None: it has one stage only."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """All that a run reports, apart from its requests."""

    cluster: str
    requested: int
    interrupted: bool
    throughput: ThroughputSummary
    latency: LatencySummary
    instances: tuple[InstanceSummary, ...]
    p2p_bytes: int
    collective_bytes: int
    classes: Mapping[str, ClassSummary]
    fairness: Fairness
    energy: EnergyReport | None = None
    pools: tuple[PrefixPool, ...] = ()
    """The second tier of the prefix cache."""
    sessions: SessionSummary | None = None
    """What became of the workload's sessions; None if it has none."""
    max_concurrency: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished (or interrupted) run: one entry per finished request, in order of request id."""

    metrics: tuple[RequestMetrics, ...]
    prefill: tuple[PrefillFacts, ...]
    accounts: Mapping[int, Account]
    """What the time before each first token was spent on, by request id; empty unless asked for."""
    summary: RunSummary
    model_of_instance: Mapping[int, str]


def collect(
    cluster: Cluster,
    simulation: Simulation,
    accounts: Mapping[int, Account] | None = None,
    energy: EnergyReport | None = None,
) -> RunResult:
    """Turn a simulation that has run into its result; ``accounts`` are a wait ledger's."""
    finished = sorted(simulation.finished, key=lambda request: request.request_id)
    metrics = tuple(request_metrics(request) for request in finished)
    prefill = tuple(_prefill_facts(simulation, one) for one in metrics)
    classes, fairness = by_class(prefill, [one.ttft_ns for one in metrics])
    counters = simulation.counters
    summary = RunSummary(
        cluster=str(cluster.file),
        requested=len(simulation.requests),
        interrupted=simulation.interrupted,
        throughput=throughput(finished),
        latency=summarise(metrics),
        instances=_instances(simulation, metrics),
        p2p_bytes=counters.p2p_bytes,
        collective_bytes=counters.collective_bytes,
        classes=classes,
        fairness=fairness,
        energy=energy,
        pools=tuple(pools_of(simulation.instances)),
        sessions=summarise_sessions(simulation.requests),
        max_concurrency=simulation.max_concurrency,
    )
    models = {spec.instance_id: spec.model.name for spec in cluster.instances}
    return RunResult(metrics, prefill, accounts or {}, summary, models)


def _prefill_facts(simulation: Simulation, one: RequestMetrics) -> PrefillFacts:
    request = one.request
    where = simulation.instances[request.first_instance_id]
    isolated_ns = where.isolated_prefill_ns(request.prompt_tokens, where.skipped_tokens(request))
    slowdown = one.ttft_ns / max(isolated_ns, 1)
    if request.job is None:
        return PrefillFacts(request.request_class, isolated_ns, slowdown)
    job = request.job
    overtaken_ns = None if job.bound_ns is None else job.overtaken_ns
    # beside decodes an iteration takes longer than the policy can promise
    bound_ns = job.bound_ns if where.spec.role is Role.PREFILL else None
    return PrefillFacts(
        request.request_class, isolated_ns, slowdown, job.chunks, job.pauses, overtaken_ns, bound_ns
    )


def _instances(simulation: Simulation, metrics: Sequence[RequestMetrics]) -> tuple[InstanceSummary, ...]:
    served: dict[int, list[RequestMetrics]] = {}
    for one in metrics:
        request = one.request
        for instance_id in {request.instance_id, request.prefill_instance_id} - {-1}:
            served.setdefault(instance_id, []).append(one)
    return tuple(
        InstanceSummary(
            instance_id=instance_id,
            role=instance.spec.role.value,
            model=instance.spec.model.name,
            hardware=instance.spec.hardware,
            npus=len(instance.spec.npus),
            pim=instance.spec.pim,
            latency_source=instance.latency.name,
            provenance=_shares(instance.traces.provenance_ns()),
            iterations=instance.iterations,
            busy_ns=instance.busy_ns,
            preemptions=instance.scheduler.preemptions,
            kv_blocks=instance.kv_cache.capacity_blocks,
            peak_kv_blocks=instance.kv_cache.peak_blocks,
            prefix=instance.kv_cache.statistics,
            tiers=instance.tiers,
            drafts=instance.scheduler.draft_statistics,
            pipeline=PipelineSummary.of(instance),
            peak_paused_kv_blocks=instance.scheduler.peak_paused_blocks,
            latency=summarise(served.get(instance_id, [])),
        )
        for instance_id, instance in simulation.instances.items()
    )


def _shares(time_ns: Mapping[Source, int]) -> dict[Source, float]:
    total_ns = sum(time_ns.values())
    return {source: time_ns[source] / total_ns for source in Source if time_ns.get(source)}


def summary_json(summary: RunSummary) -> str:
    """The summary as JSON: latencies in ms, throughput per second of simulated time."""
    totals = summary.throughput
    facts: dict[str, Any] = {
        "cluster_config": summary.cluster,
        "interrupted": summary.interrupted,
        "requests": {"given": summary.requested, "finished": totals.requests},
        "makespan_ns": totals.makespan_ns,
        "tokens": {"prompt": totals.prompt_tokens, "generated": totals.generated_tokens},
        "throughput_per_s": {
            "requests": totals.per_second(totals.requests),
            "prompt_tokens": totals.per_second(totals.prompt_tokens),
            "generated_tokens": totals.per_second(totals.generated_tokens),
        },
        "latency_ms": _latency_facts(summary.latency),
        "classes": {name: _class_facts(one) for name, one in summary.classes.items()},
        "jain_index": asdict(summary.fairness),
        "network_bytes": {"p2p": summary.p2p_bytes, "collective": summary.collective_bytes},
        "instances": [_instance_facts(instance) for instance in summary.instances],
    }
    if summary.pools:
        facts["prefix_storage"] = pool_facts(summary.pools)
    if summary.sessions is not None:
        facts["sessions"] = session_facts(summary.sessions)
    if summary.energy is not None:
        facts["power"] = energy_facts(summary.energy, totals.generated_tokens)
    return json.dumps(facts, indent=2) + "\n"


def _class_facts(one: ClassSummary) -> dict[str, Any]:
    return {
        "requests": one.requests,
        "ttft_ms": {
            "p50": one.ttft_p50_ns / _NS_PER_MS,
            "p90": one.ttft_p90_ns / _NS_PER_MS,
            "p99": one.ttft_p99_ns / _NS_PER_MS,
            "p99.9": one.ttft_p999_ns / _NS_PER_MS,
        },
        "slowdown": {"mean": one.slowdown_mean, "p99": one.slowdown_p99, "max": one.slowdown_max},
    }


def _instance_facts(instance: InstanceSummary) -> dict[str, Any]:
    return {
        "instance_id": instance.instance_id,
        "role": instance.role,
        "model": instance.model,
        "hardware": instance.hardware,
        "npus": instance.npus,
        **({} if instance.pim is None else {"attention_offloading": instance.pim.facts()}),
        "latency_source": instance.latency_source,
        "latency_provenance": {source.value: share for source, share in instance.provenance.items()},
        "iterations": instance.iterations,
        "busy_ns": instance.busy_ns,
        "preemptions": instance.preemptions,
        "kv_blocks": {
            "capacity": instance.kv_blocks,
            "peak": instance.peak_kv_blocks,
            "peak_paused": instance.peak_paused_kv_blocks,
        },
        "prefix_cache": instance.prefix and prefix_facts(instance.prefix),
        **tier_facts(instance.tiers),
        **draft_facts(instance.drafts),
        **(instance.pipeline.facts() if instance.pipeline is not None else {}),
        "requests": instance.latency.requests,
        "latency_ms": _latency_facts(instance.latency),
    }


def _latency_facts(latency: LatencySummary) -> dict[str, dict[str, float]]:
    return {
        name: {
            "mean": part.mean_ns / _NS_PER_MS,
            "median": part.median_ns / _NS_PER_MS,
            "p99": part.p99_ns / _NS_PER_MS,
        }
        for name, part in _parts(latency)
    }


def _parts(latency: LatencySummary) -> tuple[tuple[str, Distribution], ...]:
    return (
        ("ttft", latency.ttft),
        ("tpot", latency.tpot),
        ("itl", latency.itl),
        ("latency", latency.latency),
    )


def summary_text(summary: RunSummary) -> str:
    """The summary blocks that a run prints."""
    totals = summary.throughput
    lines = [
        _title("Throughput Results"),
        _line("Finished requests", f"{totals.requests} of {summary.requested}"),
        _line("Total simulated time (s)", f"{totals.makespan_ns / 1e9:.3f}"),
        _line("Total clocks (ns)", f"{totals.makespan_ns}"),
        _line("Mean latency (ms)", f"{summary.latency.latency.mean_ns / _NS_PER_MS:.2f}"),
        _line("Total input tokens", f"{totals.prompt_tokens}"),
        _line("Total generated tokens", f"{totals.generated_tokens}"),
        _line("Request throughput (req/s)", f"{totals.per_second(totals.requests):.2f}"),
        _line("Prompt throughput (tok/s)", f"{totals.per_second(totals.prompt_tokens):.2f}"),
        _line("Generation throughput (tok/s)", f"{totals.per_second(totals.generated_tokens):.2f}"),
    ]
    if len(summary.classes) > 1:
        lines += _class_lines(summary)
    if summary.sessions is not None:
        lines.append(_title("Session Results"))
        lines += [_line(name, value) for name, value in session_lines(summary.sessions)]
    for instance in summary.instances:
        lines += _instance_lines(instance)
    if summary.pools:
        lines.append(_title("Prefix storage"))
        lines += [_line(name, value) for name, value in pool_lines(summary.pools)]
    if summary.energy is not None:
        lines.append(_title("Power Results"))
        lines += [_line(name, value) for name, value in energy_lines(summary.energy, totals.generated_tokens)]
    lines.append("=" * _WIDTH)
    return "\n".join(lines) + "\n"


def _class_lines(summary: RunSummary) -> list[str]:
    lines = [_title("Slowdown (TTFT / prefill alone)")]
    for name, one in summary.classes.items():
        lines += [
            _line(f"Requests, {name}", str(one.requests)),
            _line(f"Mean slowdown, {name}", f"{one.slowdown_mean:.2f}"),
            _line(f"P99 slowdown, {name}", f"{one.slowdown_p99:.2f}"),
            _line(f"P99 TTFT, {name} (ms)", f"{one.ttft_p99_ns / _NS_PER_MS:.2f}"),
        ]
    return [*lines, _line("Jain's index of slowdown", f"{summary.fairness.slowdown:.3f}")]


def _offloading_lines(pim: PimSpec | None) -> list[str]:
    if pim is None:
        return []
    device, channels, source = pim.facts().values()
    return [
        _line("PIM channels", f"{channels} x {device}"),
        _line("PIM attention times", f"{source}"),
    ]


def _instance_lines(instance: InstanceSummary) -> list[str]:
    lines = [
        _title(f"Instance {instance.instance_id} ({instance.role})"),
        _line("Model", instance.model),
        _line("Hardware", f"{instance.npus} x {instance.hardware}"),
        _line("Latencies from", instance.latency_source),
        *_offloading_lines(instance.pim),
        *(
            _line(f"Compute time {source.value} (%)", f"{100 * share:.1f}")
            for source, share in instance.provenance.items()
        ),
        _line("Requests", str(instance.latency.requests)),
        _line("Iterations", str(instance.iterations)),
        _line("Preemptions", str(instance.preemptions)),
        _line("Peak KV blocks", f"{instance.peak_kv_blocks} of {instance.kv_blocks}"),
    ]
    if instance.prefix is not None:
        lines.append(_line("Prefix hit ratio (%)", f"{100 * instance.prefix.hit_ratio:.2f}"))
    lines += [_line(name, value) for name, value in tier_lines(instance.tiers)]
    lines += [_line(name, value) for name, value in draft_lines(instance.drafts)]
    if instance.pipeline is not None:
        lines += [_line(name, value) for name, value in instance.pipeline.lines()]
    for name, part in (
        ("TTFT", instance.latency.ttft),
        ("TPOT", instance.latency.tpot),
        ("ITL", instance.latency.itl),
    ):
        lines += [
            _line(f"Mean {name} (ms)", f"{part.mean_ns / _NS_PER_MS:.2f}"),
            _line(f"Median {name} (ms)", f"{part.median_ns / _NS_PER_MS:.2f}"),
            _line(f"P99 {name} (ms)", f"{part.p99_ns / _NS_PER_MS:.2f}"),
        ]
    return lines


def _title(text: str) -> str:
    return f" {text} ".center(_WIDTH, "=")


def _line(name: str, value: str) -> str:
    return f"{name + ':':<34}{value:>{_WIDTH - 34}}"

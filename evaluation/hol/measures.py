"""What is measured of one run: latencies, slowdowns, fairness, and whether anybody waited longer than the bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.hol.plan import Point
from evaluation.hol.store import MISSING, Finished, Table
from inference_serving.policies.options import parse_pairs
from inference_serving.slowdown import ClassSummary, jain

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
CLASSES = ("short", "long", "all")
BETA, SIGMA = 0.5, 0.3
NS_PER_MS, NS_PER_S = 1e6, 1e9


def kept(requests: Table, warm_up: float) -> Bools:
    """Requests that statistics look at: not the first ones, which meet an empty system."""
    return np.arange(len(requests["ttft"])) >= warm_up * len(requests["ttft"])


def of_class(requests: Table, name: str) -> Bools:
    """Requests of a class, or of both."""
    return np.ones(len(requests["ttft"]), np.bool_) if name == "all" else requests["class"] == name


def slowdowns(requests: Table) -> Floats:
    """TTFT over isolated prefill time."""
    result: Floats = requests["ttft"] / np.maximum(requests["isolated"], 1)
    return result


def fcfs_sojourn_ns(requests: Table) -> Floats:
    """Time in the system under virtual FCFS of one prompt at a time, at the prefill instance that served it.

    F := max(F, a) + v at each arrival; the sojourn is F - a.
    """
    sojourn = np.zeros(len(requests["arrival"]), np.float64)
    order = np.lexsort((requests["request"], requests["arrival"]))
    for instance in np.unique(requests["instance"]):
        places = order[requests["instance"][order] == instance]
        arrivals, work = requests["arrival"][places], requests["isolated"][places]
        # F_i = max over k <= i of (a_k + v_k + ... + v_i)
        total = np.cumsum(work)
        finish = total + np.maximum.accumulate(arrivals - (total - work))
        sojourn[places] = finish - arrivals
    return sojourn


def bound_ns(requests: Table, beta: float, sigma: float) -> Floats:
    """(sojourn under virtual FCFS + beta * isolated time) / (1 - sigma)."""
    result: Floats = (fcfs_sojourn_ns(requests) + beta * requests["isolated"]) / (1 - sigma)
    return result


def guarantee_of(point: Point) -> tuple[float, float]:
    """The beta and sigma that a run is held to: those it was given where both make a bound, else the defaults."""
    given = parse_pairs(point.args)
    beta, sigma = float(given.get("beta", BETA)), float(given.get("sigma", SIGMA))
    return (beta, sigma) if beta < 100 else (BETA, SIGMA)


def measure(point: Point, run: Finished) -> list[dict[str, Any]]:
    """Tidy rows of a run, one a class that has requests."""
    keep = kept(run.requests, point.workload.warm_up)
    common = {**_what(point, run), **_totals(run, keep)}
    limit_ns = bound_ns(run.requests, *guarantee_of(point))
    rows = []
    for name in CLASSES:
        chosen = keep & of_class(run.requests, name)
        if chosen.any():
            rows.append(common | {"class": name} | _of_requests(run.requests, chosen, limit_ns))
    return rows


def _what(point: Point, run: Finished) -> dict[str, Any]:
    work = point.workload
    entries = np.unique([one["instance_id"] for one in run.summary["instances"] if one["role"] != "decode"])
    last_ns = int(run.requests["arrival"].max())
    load = run.requests["isolated"].sum() / max(last_ns, 1) / len(entries)
    return {
        "point": point.point_id,
        "workload": work.name,
        "load": work.load,
        "load_drawn": float(load),
        "arrivals": work.arrivals,
        "seed": work.seed,
        "cluster": point.cluster,
        "prefill_instances": len(entries),
        "router": point.router,
        "policy": point.contestant,
        "scheduling_policy": point.policy,
        "policy_args": point.args,
        "chunk": point.chunk,
    }


def _totals(run: Finished, keep: Bools) -> dict[str, Any]:
    """What does not belong to a class."""
    instances: list[Mapping[str, Any]] = list(run.summary["instances"])
    entries = [one for one in instances if one["role"] != "decode"]
    slowdown = slowdowns(run.requests)[keep]
    classes = run.requests["class"][keep]
    means = [float(slowdown[classes == name].mean()) for name in np.unique(classes)]
    return {
        "makespan_s": run.summary["makespan_ns"] / NS_PER_S,
        "requests_per_s": run.summary["throughput_per_s"]["requests"],
        "prefill_busy_s": sum(one["busy_ns"] for one in entries) / NS_PER_S,
        "busy_s": sum(one["busy_ns"] for one in instances) / NS_PER_S,
        "prefill_iterations": sum(one["iterations"] for one in entries),
        "preemptions": sum(one["preemptions"] for one in instances),
        "peak_paused_kv_blocks": max(one["kv_blocks"]["peak_paused"] for one in entries),
        "kv_blocks": entries[0]["kv_blocks"]["capacity"],
        "jain_slowdown": jain(slowdown),
        "jain_inverse": jain(1 / slowdown),
        "jain_class_means": jain(means),
    }


def _of_requests(requests: Table, chosen: Bools, limit_ns: Floats) -> dict[str, Any]:
    ttft, slowdown = requests["ttft"][chosen], slowdowns(requests)[chosen]
    facts = ClassSummary.of(ttft.tolist(), slowdown.tolist())
    several = chosen & (requests["output"] - requests["input"] > 1)
    tpot = requests["tpot"][several] if several.any() else np.zeros(1)
    use = ttft / limit_ns[chosen]
    promised = requests["bound"][chosen]
    return {
        "requests": facts.requests,
        "ttft_p50_ms": facts.ttft_p50_ns / NS_PER_MS,
        "ttft_p90_ms": facts.ttft_p90_ns / NS_PER_MS,
        "ttft_p99_ms": facts.ttft_p99_ns / NS_PER_MS,
        "ttft_p99.9_ms": facts.ttft_p999_ns / NS_PER_MS,
        "ttft_max_ms": float(ttft.max()) / NS_PER_MS,
        "slowdown_mean": facts.slowdown_mean,
        "slowdown_p99": facts.slowdown_p99,
        "slowdown_max": facts.slowdown_max,
        "tpot_p99_ms": float(np.percentile(tpot, 99)) / NS_PER_MS,
        "violations": int((use > 1).sum()),
        "bound_use_max": float(use.max()),
        "promises_broken": int(((promised != MISSING) & (ttft > promised)).sum()),
        "pauses": int(np.maximum(requests["pauses"][chosen], 0).sum()),
    }

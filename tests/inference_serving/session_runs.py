"""Sessions for the tests: workloads of turns, and clusters that run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters import LinearLatency, instance, make_cluster

from inference_serving.request_spec import RequestSpec, SessionTurn
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import Simulation

Turn = tuple[int, int, int]
"""Prompt tokens, output tokens, and tool time (ns) before the next turn."""


def session(first_id: int, name: str, at_ns: int, turns: Sequence[Turn]) -> list[RequestSpec]:
    """The requests of a session, without token ids."""
    specs, tool_ns = [], 0
    for turn, (prompt, output, next_tool_ns) in enumerate(turns):
        place = SessionTurn(name, turn, len(turns), tool_ns)
        specs.append(RequestSpec(first_id + turn, at_ns, prompt, output, session=place))
        tool_ns = next_tool_ns
    return specs


def growing(specs: Sequence[RequestSpec]) -> list[RequestSpec]:
    """The same turns with token ids; each prompt begins with the turn before."""
    filled: list[RequestSpec] = []
    history: tuple[int, ...] = ()
    for spec in specs:
        own = tuple(range(10_000 * (spec.request_id + 1), 10_000 * (spec.request_id + 1) + 9_000))
        prompt = (history + own)[: spec.input_tokens]
        answer = own[-spec.output_tokens :]
        filled.append(replace(spec, input_token_ids=prompt, output_token_ids=answer))
        history = prompt + answer
    return filled


def simulation_of(
    folder: Path,
    workload: Sequence[RequestSpec],
    kinds: Sequence[tuple[int, str | None]] = ((1, None),),
    config: SimulationConfig | None = None,
    **extra: Any,
) -> Simulation:
    """A simulation that has not run yet."""
    cluster = make_cluster(folder, [instance(folder, *kind, **extra) for kind in kinds], config)
    latencies = {spec.instance_id: LinearLatency() for spec in cluster.instances}
    return Simulation(cluster, workload, config or SimulationConfig(), latencies)

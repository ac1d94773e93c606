"""The whole comparison of two runs, as far as their files allow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError, read_json_object
from inference_serving.validation.errors import Group, Value, by_class, by_load, compare_group, rates
from inference_serving.validation.matching import Matching, match
from inference_serving.validation.run import Run
from inference_serving.validation.series import SeriesComparison, compare_series, series_of

_STEP_S = 1.0


@dataclass(frozen=True)
class Comparison:
    """Everything that is printed and written; ``matching`` is None if the real run is a series only."""

    real: Run
    simulated: Run
    matching: Matching | None
    groups: tuple[Group, ...]
    load_groups: tuple[Group, ...]
    throughput: dict[str, Value]
    series: tuple[SeriesComparison, ...]
    latency_sources: tuple[str, ...]
    notes: tuple[str, ...]


def compare_runs(
    real: Run,
    simulated: Run,
    *,
    classes: Sequence[int] = (),
    way: str = "auto",
    partial: bool = False,
    summary: Path | None = None,
    series_counts: str = "generated",
) -> Comparison:
    """Compare a real run with a simulated one; raises InputError if they do not fit together.

    ``series_counts`` says what the one column of a real throughput series counts: ``generated`` tokens, or
    ``all`` tokens, prompts included.
    """
    matching = match(real, simulated, way=way, partial=partial) if real.requests else None
    groups: tuple[Group, ...] = ()
    load_groups: tuple[Group, ...] = ()
    throughput: dict[str, Value] = {}
    if matching is not None:
        groups = (compare_group("all requests", matching.pairs),)
        groups += by_class(matching.pairs, classes) if classes else ()
        if real.arrivals_known:
            load_groups = by_load(matching.pairs)
            throughput = rates(matching.pairs)
    return Comparison(
        real=real,
        simulated=simulated,
        matching=matching,
        groups=groups,
        load_groups=load_groups,
        throughput=throughput,
        series=_series(real, simulated, series_counts),
        latency_sources=_latency_sources(summary),
        notes=real.notes,
    )


def _series(real: Run, simulated: Run, counts: str) -> tuple[SeriesComparison, ...]:
    """Series of the real run (its own, else made from its token times) against the simulated ones."""
    theirs = real.series or (series_of(real.requests, _STEP_S) if real.arrivals_known else None)
    ours = series_of(simulated.requests, theirs.step_s) if theirs is not None else None
    if theirs is None or ours is None:
        return ()
    generated = ours.generated
    if counts == "all" and theirs.prompt is None and ours.prompt is not None:
        length = max(generated.size, ours.prompt.size)
        prompt = ours.prompt.copy()
        prompt.resize(length)
        generated = generated.copy()
        generated.resize(length)
        return (compare_series("prompt and generated", theirs.step_s, theirs.generated, generated + prompt),)
    found = [compare_series("generated", theirs.step_s, theirs.generated, generated)]
    if theirs.prompt is not None and ours.prompt is not None:
        found.append(compare_series("prompt", theirs.step_s, theirs.prompt, ours.prompt))
    return tuple(found)


def _latency_sources(summary: Path | None) -> tuple[str, ...]:
    """Where the simulated latencies came from, one entry a kind, from a ``--summary-json`` file."""
    if summary is None:
        return ()
    try:
        instances = read_json_object(summary)["instances"]
        return tuple(sorted({str(instance["latency_source"]) for instance in instances}))
    except (KeyError, TypeError):
        raise InputError(summary, "instances", "not a summary written with --summary-json") from None

"""Hold the tables against the model they were measured on: whole forward passes, measured and simulated."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_profile.layers import BLOCK_LAYERS
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.batch import BatchShape
from llm_profile.profiler.plan import Grid, Kind, Point
from llm_profile.profiler.samples import Times
from llm_profile.protocol import LatencyModel

SEED = 1
PROBES = (0.1, 0.5, 0.9)
"""Where among the measured token counts the ones lie that are measured again."""
ROUNDS = 3
"""Every batch is measured this often, all of them in turn, so that a busy minute does not decide."""


@dataclass(frozen=True)
class Comparison:
    """One batch, its measured and its simulated time."""

    name: str
    measured_ns: float
    simulated_ns: int

    @property
    def error(self) -> float:
        """Simulated over measured, less 1."""
        return self.simulated_ns / self.measured_ns - 1


@dataclass(frozen=True)
class Check:
    """All comparisons, and how the device's speed changed since the tables were measured."""

    comparisons: Sequence[Comparison]
    drift: float
    """How many times as long points of the tables take now."""


def check_batches(grid: Grid) -> Iterator[tuple[str, BatchShape]]:
    """Batches within ``grid``, most of them off its points: prompts, chunks, decodes, and both."""
    tokens, context = grid.max_tokens, grid.max_context
    for share in (0.03, 0.1, 0.3, 0.7, 1.0):
        n = max(1, round(tokens * share))
        yield f"prefill {n}", BatchShape(prefill=((n, 0),))
    chunk, history = max(1, round(tokens * 0.3)), round(context * 0.6)
    yield f"prefill {chunk} on {history}", BatchShape(prefill=((chunk, history),))
    pick = random.Random(SEED)
    decodes = {}
    for n in sorted({1, min(3, grid.max_seqs), max(1, round(grid.max_seqs * 0.4)), grid.max_seqs}):
        longest = min(context, grid.max_batch_kv // n)
        equal = max(1, round(longest * 0.4))
        yield f"decode {n} x {equal}", BatchShape(decode_kv=(equal,) * n)
        decodes[n] = tuple(pick.randint(1, longest) for _ in range(n))
        if n > 1:
            yield f"decode {n} uneven", BatchShape(decode_kv=decodes[n])
    for n, kv in decodes.items():
        small = max(1, min(chunk, tokens - n))
        yield f"prefill {small} + decode {n} uneven", BatchShape(prefill=((small, 0),), decode_kv=kv)
    two = max(1, round(tokens * 0.2))
    yield f"2 prefills of {two}", BatchShape(prefill=((two, 0), (two, 0)))


def compare(
    measured_ns: Callable[[BatchShape], float],
    drift: Callable[[], float],
    grid: Grid,
    latency: LatencyModel,
    model: ModelConfig,
) -> Check:
    """Measure an iteration of the whole model for each batch, and price it with ``latency``.

    ``drift`` measures some points of the tables again and returns how many times as long they take now.
    """
    batches = dict(check_batches(grid))
    drifts, rounds = [], []
    for _ in range(ROUNDS):
        drifts.append(drift())
        rounds.append({name: measured_ns(shape) for name, shape in batches.items()})
    comparisons = [
        Comparison(
            name,
            statistics.median(measured[name] for measured in rounds),
            simulated_ns(latency, model, shape),
        )
        for name, shape in batches.items()
    ]
    return Check(comparisons, statistics.median(drifts))


def drift_of(measure: Callable[[Point], Times], measured: Mapping[Point, Times], kind: Kind) -> float:
    """How many times as long layers at a few token counts take now as when they were ``measured``."""
    points = sorted((point for point in measured if point.kind == kind), key=lambda point: point.key)
    ratios = []
    for share in PROBES:
        point = points[round(share * (len(points) - 1))]
        now = sum(stats.median for stats in measure(point).values())
        ratios.append(now / sum(stats.median for stats in measured[point].values()))
    return statistics.median(ratios)


def simulated_ns(latency: LatencyModel, model: ModelConfig, shape: BatchShape) -> int:
    """Time of one iteration as a simulation adds it up: every block alike, LM head on each sequence."""

    def layer(name: str, count: int) -> int:
        return int(latency.layer_ns(name, np.array([count]))[0])

    chunks = np.array([chunk for chunk, _ in shape.prefill], dtype=np.int64)
    contexts = np.array([context for _, context in shape.prefill], dtype=np.int64)
    attention = latency.attention_ns(chunks, contexts, np.array(shape.decode_kv, dtype=np.int64))
    block = attention + sum(layer(name, shape.tokens) for name in BLOCK_LAYERS if name != "attn")
    outside = layer("embedding", shape.tokens) + layer("final_layernorm", shape.tokens)
    lm_head = layer("lm_head", shape.sequences)
    return model.num_hidden_layers * block + outside + lm_head + latency.step_overhead_ns


def check_text(source: str, check: Check) -> str:
    """A Markdown table, then the median and the largest error, and the device's drift."""
    rows = [
        f"| {one.name} | {one.measured_ns / 1e6:.3f} | {one.simulated_ns / 1e6:.3f} | {one.error:+.1%} |"
        for one in check.comparisons
    ]
    head = [f"| {source} | measured (ms) | simulated (ms) | error |", "|---|---|---|---|"]
    sizes = [abs(one.error) for one in check.comparisons]
    summary = f"median error {statistics.median(sizes):.1%}, largest {max(sizes):.1%}"
    drift = f"layers measured again meanwhile took {check.drift:.3f} times as long as in the tables"
    return "\n".join([*head, *rows, "", f"{summary}; {drift}"])

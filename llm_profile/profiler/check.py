"""Hold the tables against the model they were measured on: whole forward passes, measured and simulated."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llm_profile.layers import BLOCK_LAYERS
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.batch import BatchShape
from llm_profile.profiler.plan import Grid
from llm_profile.protocol import LatencyModel

SEED = 1
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
    measured_ns: Callable[[BatchShape], float], grid: Grid, latency: LatencyModel, model: ModelConfig
) -> list[Comparison]:
    """Measure an iteration of the whole model for each batch, and price it with ``latency``."""
    batches = dict(check_batches(grid))
    rounds = [{name: measured_ns(shape) for name, shape in batches.items()} for _ in range(ROUNDS)]
    return [
        Comparison(
            name,
            statistics.median(measured[name] for measured in rounds),
            simulated_ns(latency, model, shape),
        )
        for name, shape in batches.items()
    ]


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


def comparison_text(source: str, comparisons: Sequence[Comparison]) -> str:
    """A Markdown table, then the median and the largest error."""
    rows = [
        f"| {one.name} | {one.measured_ns / 1e6:.3f} | {one.simulated_ns / 1e6:.3f} | {one.error:+.1%} |"
        for one in comparisons
    ]
    errors = sorted(abs(one.error) for one in comparisons)
    summary = f"median error {np.median(errors):.1%}, largest {errors[-1]:.1%}"
    head = [f"| {source} | measured (ms) | simulated (ms) | error |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, "", summary])

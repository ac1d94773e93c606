"""What is measured: points on the axes that the tables have, denser or farther by flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from llm_profile.model_config import ModelConfig

LEAST_CHUNK = 16
"""Shortest prefill chunk and KV length of the attention grids, one KV block of most engines."""
COARSE = 0.5
"""Points a doubling of axes that are measured in a product of four (every fourth)."""
SKEWS = (4, 16)
"""How many times longer than the others the long requests of an uneven batch are."""
LONG_SHARES = (0.0625, 0.25, 0.5, 0.75)
"""Share of long requests in an uneven batch."""


class Kind(StrEnum):
    """What a point measures, and what its key is."""

    SPLIT_LAYERS = "split_layers"
    """(tokens,): every layer of its own, as in ``layers.csv``."""
    FUSED_LAYERS = "fused_layers"
    """(tokens,): q, k, v as one layer, and gate, up as one, as in ``dense.csv``."""
    SEQUENCES = "sequences"
    """(sequences,): LM head and greedy sampler."""
    ATTENTION = "attention"
    """(prefill chunk, its context, decodes, KV of each): one batch; 0 for what is not there."""
    SKEW = "skew"
    """(prefill chunk, its context, decodes, long ones, KV of the short, KV of the long): an uneven batch."""
    EXPERT = "expert"
    """(tokens,): router and one expert."""
    MOE = "moe"
    """(tokens, activated experts): a whole mixture-of-experts layer."""


class Layout(StrEnum):
    """Which tables are wanted."""

    V1 = "v1"
    BUNDLE = "bundle"
    BOTH = "both"


class Part(StrEnum):
    """Which half of the tables is wanted."""

    ALL = "all"
    LAYERS = "layers"
    ATTENTION = "attention"


@dataclass(frozen=True)
class Point:
    """One thing to measure.

    >>> str(Point(Kind.ATTENTION, (16, 0, 2, 128)))
    'attention 16,0,2,128'
    """

    kind: Kind
    key: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} {','.join(map(str, self.key))}"


@dataclass(frozen=True)
class Grid:
    """How far and how densely to measure."""

    max_tokens: int = 512
    """Longest prefill chunk, and most tokens of a layer."""
    max_seqs: int = 32
    """Most requests of a decode batch."""
    max_context: int = 1024
    """Longest history of a chunk, and longest KV of a decode."""
    max_batch_kv: int = 32768
    """Most KV tokens of a batch, which bounds memory and time."""
    density: float = 2.0
    """Points a doubling."""
    skew: bool = True
    """Whether bundles get uneven batches."""


def ladder(first: int, last: int, density: float) -> list[int]:
    """Whole numbers from ``first`` to ``last`` with ``density`` points a doubling, both ends included.

    >>> ladder(1, 20, 1), ladder(16, 100, 2)
    ([1, 2, 4, 8, 16, 20], [16, 23, 32, 45, 64, 91, 100])
    """
    steps: set[int] = {last}
    exponent = 0
    while (value := round(first * 2 ** (exponent / density))) < last:
        steps.add(value)
        exponent += 1
    return sorted(steps)


def plan(model: ModelConfig, grid: Grid, layout: Layout, part: Part) -> list[Point]:
    """Every point of the wanted tables once, in the order of measuring."""
    points: list[Point] = []
    if part != Part.ATTENTION:
        points += _layer_points(model, grid, layout)
    if part != Part.LAYERS:
        points += [Point(Kind.ATTENTION, key) for key in _attention_keys(grid, layout)]
        if grid.skew and layout != Layout.V1:
            points += [Point(Kind.SKEW, key) for key in _skew_keys(grid)]
    return list(dict.fromkeys(points))


def _layer_points(model: ModelConfig, grid: Grid, layout: Layout) -> Iterator[Point]:
    tokens = ladder(1, grid.max_tokens, grid.density)
    if layout != Layout.BUNDLE:
        yield from (Point(Kind.SPLIT_LAYERS, (n,)) for n in tokens)
        yield from (Point(Kind.ATTENTION, (n, 0, 0, 0)) for n in tokens)
        if model.is_moe:
            yield from (Point(Kind.EXPERT, (n,)) for n in tokens)
    if layout != Layout.V1:
        yield from (Point(Kind.FUSED_LAYERS, (n,)) for n in tokens)
        if model.is_moe:
            yield from (Point(Kind.MOE, key) for key in _moe_keys(model, grid))
    yield from (Point(Kind.SEQUENCES, (n,)) for n in ladder(1, grid.max_seqs, grid.density))


def _moe_keys(model: ModelConfig, grid: Grid) -> Iterator[tuple[int, int]]:
    """At least the experts of one token are active, at most all, and never more than there are choices."""
    each = model.num_experts_per_tok
    for tokens in ladder(1, grid.max_tokens, 1):
        for experts in ladder(each, model.num_experts, 1):
            if experts <= tokens * each:
                yield tokens, experts


def _attention_keys(grid: Grid, layout: Layout) -> Iterator[tuple[int, int, int, int]]:
    chunks = ladder(min(LEAST_CHUNK, grid.max_tokens), grid.max_tokens, grid.density)
    lengths = ladder(min(LEAST_CHUNK, grid.max_context), grid.max_context, 1)
    requests = ladder(1, grid.max_seqs, grid.density)
    for chunk in chunks:
        for context in (0, *lengths):
            if chunk + context <= grid.max_batch_kv:
                yield chunk, context, 0, 0
    for n in requests:
        yield from ((0, 0, n, kv) for kv in lengths if n * kv <= grid.max_batch_kv)
    if layout == Layout.V1:
        return
    for chunk in ladder(chunks[0], grid.max_tokens, COARSE):
        for context in (0, grid.max_context):
            for n in ladder(1, grid.max_seqs, COARSE):
                for kv in ladder(lengths[0], grid.max_context, COARSE):
                    if chunk + context + n * kv <= grid.max_batch_kv:
                        yield chunk, context, n, kv


def _skew_keys(grid: Grid) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Uneven batches, alone and beside a prefill; long requests are within the measured KV."""
    chunks = [0, *ladder(min(LEAST_CHUNK, grid.max_tokens), grid.max_tokens, COARSE)]
    for chunk in chunks:
        for n in ladder(min(4, grid.max_seqs), grid.max_seqs, 1 if chunk == 0 else COARSE):
            for share in LONG_SHARES if chunk == 0 else LONG_SHARES[1:3]:
                many = max(1, round(n * share))
                for skew in SKEWS:
                    long = grid.max_context
                    short = max(1, long // skew)
                    if 1 <= many < n and chunk + n * long <= grid.max_batch_kv:
                        yield chunk, 0, n, many, short, long

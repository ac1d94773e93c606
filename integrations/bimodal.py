"""The workload of the recorded runs: short prompts with rare long ones, arrivals by a Poisson process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHORT_TOKENS = (64, 128)
LONG_TOKENS = (2048, 4096)
OUTPUT_TOKENS = (8, 64)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: arrival in s since the start of the run, and lengths in tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    long: bool


def bimodal(seed: int, requests: int, rate: float, long_share: float) -> list[Arrival]:
    """``requests`` arrivals, ``rate`` a second, of which a share is long; one seed fixes all of it."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / rate, requests))
    longs = rng.random(requests) < long_share
    short_tokens = rng.integers(*SHORT_TOKENS, requests, endpoint=True)
    long_tokens = rng.integers(*LONG_TOKENS, requests, endpoint=True)
    prompts = np.where(longs, long_tokens, short_tokens)
    outputs = rng.integers(*OUTPUT_TOKENS, requests, endpoint=True)
    columns = (at_s.tolist(), prompts.tolist(), outputs.tolist(), longs.tolist())
    return [Arrival(*row) for row in zip(*columns, strict=True)]

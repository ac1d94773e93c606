"""The kinds of workload: which requests are long, how long, and what waits at time 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dataset.generate import Ints, Sampler, token_counts

Bools: TypeAlias = npt.NDArray[np.bool_]
Pattern: TypeAlias = Callable[[np.random.Generator, int], Bools]

K32 = 32_768
K64 = 65_536
# 128K less the longest answer: a context of 131,072 tokens holds the prompt and its answer
K128 = 130_048

SHORT_INPUT = token_counts("lognormal:512:0.8:64:2048")
LONG_OUTPUT_TEXT = "lognormal:350:0.6:1:1024"
SHORT_OUTPUT = token_counts("lognormal:130:0.6:1:1024")
LONG_OUTPUT = token_counts(LONG_OUTPUT_TEXT)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of workload.

    Attributes:
        what: One line for ``--help``.
        is_long: Draws which requests of the stream are long.
        long_input: Draws the prompt lengths of long requests.
        short_input: Draws the prompt lengths of short requests.
        at_start: Prompt lengths of the long requests that arrive together at time 0, before the stream.
        shared_prefix_toks: Tokens with which all prompts begin alike; 0 for no token ids at all.
    """

    what: str
    is_long: Pattern
    long_input: Sampler
    short_input: Sampler = SHORT_INPUT
    at_start: tuple[int, ...] = ()
    shared_prefix_toks: int = 0


def one_of(*tokens: int) -> Sampler:
    """Draw one of ``tokens``, each as often as the others."""
    choices = np.array(tokens, dtype=np.int64)

    def draw(rng: np.random.Generator, count: int) -> Ints:
        return choices[rng.integers(0, len(choices), count)]

    return draw


def a_fraction(fraction: float) -> Pattern:
    """Every request is long with probability ``fraction``, whatever the others are."""

    def draw(rng: np.random.Generator, count: int) -> Bools:
        longs: Bools = rng.random(count) < fraction
        return longs

    return draw


def every_other(_: np.random.Generator, count: int) -> Bools:
    """Long, short, long, short."""
    longs: Bools = np.arange(count) % 2 == 0
    return longs


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "long5-32k": Kind("5 % of 32K", a_fraction(0.05), one_of(K32)),
        "long2-64k": Kind("2 % of 64K", a_fraction(0.02), one_of(K64)),
        "long2-mix": Kind("2 % of 32K, 64K or 128K", a_fraction(0.02), one_of(K32, K64, K128)),
        "flood": Kind("one 128K at time 0, then only shorts", a_fraction(0), one_of(K128), at_start=(K128,)),
        "convoy": Kind(
            "eight of 32K at time 0, then only shorts", a_fraction(0), one_of(K32), at_start=(K32,) * 8
        ),
        "alternating": Kind("every other request is of 32K", every_other, one_of(K32)),
        "equal": Kind("all prompts have 512 tokens", a_fraction(0), one_of(K32), token_counts("512")),
        "same-prefix": Kind(
            "shorts that begin with the same 512 tokens", a_fraction(0), one_of(K32), shared_prefix_toks=512
        ),
    }
)

"""Which experts the tokens of an iteration go to: counts only, drawn once per iteration.

A new policy is one class and its name in ``EXPERT_ROUTINGS``, or a user's own class by ``module:Class``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.policies.options import check_range, options_of
from inference_serving.registry import CustomRegistry
from inference_serving.request import Int64Array
from llm_profile.model_config import ModelConfig

FLAG = "--expert-routing-policy"
_DRAWS = 4
"""Independent draws of one iteration: blocks route on their own in a real model, and take turns with these. Enough
that one lucky draw does not decide a whole iteration, few enough that an iteration costs no more with more blocks."""


class ExpertRouting(Protocol):
    """Deals tokens to experts."""

    draws: int
    """Rows of :meth:`counts`; block ``b`` takes row ``b % draws``."""
    repeatable: bool
    """Whether the counts follow from the number of tokens alone, so that they need not be asked for again."""

    def counts(self, tokens: int) -> Int64Array:
        """Tokens of each expert in one iteration, shape ``[draws, experts]``.

        A token goes to ``per_token`` different experts: a row adds up to ``tokens * per_token``, and no expert
        gets more than ``tokens``.
        """
        ...


RoutingFactory = Callable[..., ExpertRouting]
"""Takes the number of experts, how many of them a token goes to, and the random generator.

If it has an ``options_type``, a frozen dataclass, it takes ``--expert-routing-args`` in that form besides.
"""
FactoryT = TypeVar("FactoryT", bound=RoutingFactory)
EXPERT_ROUTINGS: CustomRegistry[RoutingFactory] = CustomRegistry(
    "an expert routing",
    "docs/moe.md",
    ("counts", "draws", "repeatable"),
    {
        "FAST": f"{__name__}:Balanced",
        "POWERLAW": f"{__name__}:PowerLaw",
        "RAND": f"{__name__}:Random",
        "RR": f"{__name__}:RoundRobin",
    },
)


def register_expert_routing(name: str) -> Callable[[FactoryT], FactoryT]:
    """Class decorator that makes an expert routing available under ``name``."""
    return EXPERT_ROUTINGS.register(name)


def expert_routing_names() -> list[str]:
    """Names that ``--expert-routing-policy`` takes."""
    return EXPERT_ROUTINGS.names()


def make_expert_routing(
    name: str, args: Mapping[str, str], model: ModelConfig, rng: np.random.Generator
) -> ExpertRouting:
    """A new routing for ``model``; raises ValueError that says what would be right for an unknown name or option."""
    factory, options = _find(name, args)
    return factory(model.num_experts, model.num_experts_per_tok, rng, *options)


def check_expert_routing(name: str, args: Mapping[str, str]) -> None:
    """Raise ValueError (UnknownNameError for the name) that says what would be right."""
    _find(name, args)


def check_counts(counts: Int64Array, tokens: int, model: ModelConfig, draws: int) -> None:
    """Raise InputError unless ``counts`` keep the promise of :meth:`ExpertRouting.counts`."""
    total = tokens * model.num_experts_per_tok
    shape = (draws, model.num_experts)
    if (
        np.shape(counts) != shape
        or counts.min() < 0
        or counts.max() > tokens
        or (counts.sum(1) != total).any()
    ):
        raise InputError(
            "",
            FLAG,
            f"counts({tokens}) must be of shape {shape}, each row {total} in all and between 0 and {tokens} for "
            f"an expert, not {np.array2string(np.asarray(counts), threshold=16)}",
        )


def _find(name: str, args: Mapping[str, str]) -> tuple[RoutingFactory, list[Any]]:
    """What makes the routing, and the options that it takes besides: one or none."""
    name, args = EXPERT_ROUTINGS.unwrap(name, args)
    factory = EXPERT_ROUTINGS.find(name)
    return factory, options_of(factory, name, args)


class Balanced:
    """Every expert gets the same, up to one token; those that get one more are spread evenly over the experts."""

    draws = 1
    repeatable = True

    def __init__(self, experts: int, per_token: int, rng: np.random.Generator) -> None:
        del rng
        self._experts = experts
        self._per_token = per_token

    def counts(self, tokens: int) -> Int64Array:
        """The only row there is."""
        each, over = divmod(tokens * self._per_token, self._experts)
        counts = np.full((1, self._experts), each, dtype=np.int64)
        counts[0, np.arange(over) * self._experts // max(over, 1)] += 1
        return counts


class RoundRobin:
    """Experts in turn; an iteration goes on where the one before ended."""

    draws = 1
    repeatable = False

    def __init__(self, experts: int, per_token: int, rng: np.random.Generator) -> None:
        del rng
        self._experts = experts
        self._per_token = per_token
        self._next = 0

    def counts(self, tokens: int) -> Int64Array:
        """The only row there is."""
        each, over = divmod(tokens * self._per_token, self._experts)
        counts = np.full((1, self._experts), each, dtype=np.int64)
        counts[0, (self._next + np.arange(over)) % self._experts] += 1
        self._next = (self._next + over) % self._experts
        return counts


class Random:
    """Each token picks its experts with equal chance, without putting one back (Floyd's sampling)."""

    draws = _DRAWS
    repeatable = False

    def __init__(self, experts: int, per_token: int, rng: np.random.Generator) -> None:
        self._experts = experts
        self._per_token = per_token
        self._rng = rng

    def counts(self, tokens: int) -> Int64Array:
        """Independent rows."""
        experts, rows = self._experts, _DRAWS * tokens
        chosen = np.empty((rows, self._per_token), dtype=np.int64)
        for column, last in enumerate(range(experts - self._per_token, experts)):
            picked = self._rng.integers(last + 1, size=rows)
            taken = (chosen[:, :column] == picked[:, None]).any(axis=1)
            chosen[:, column] = np.where(taken, last, picked)
        row = np.arange(rows) // tokens
        flat = np.bincount((chosen + experts * row[:, None]).ravel(), minlength=_DRAWS * experts)
        return flat.reshape(_DRAWS, experts)


@dataclass(frozen=True, slots=True)
class PowerLawOptions:
    """How uneven the experts are.

    Attributes:
        skew: The n-th most wanted expert is wanted ``n ** -skew`` times as much as the first; 0: all alike.
    """

    skew: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        check_range("skew", self.skew, 0, 10)


class PowerLaw:
    """Some experts are wanted more than others, by a power of their rank; which ones is drawn once a run.

    Assignments are drawn one by one from the weights, and what an expert gets beyond one of each token is drawn
    again over the others. So the counts are those of independent choices, not of choices without putting back.
    """

    options_type = PowerLawOptions
    draws = _DRAWS
    repeatable = False

    def __init__(
        self, experts: int, per_token: int, rng: np.random.Generator, options: PowerLawOptions
    ) -> None:
        self._per_token = per_token
        self._rng = rng
        weights = np.arange(1, experts + 1, dtype=np.float64) ** -options.skew
        self._chances = rng.permuted(np.tile(weights / weights.sum(), (_DRAWS, 1)), axis=1)

    def counts(self, tokens: int) -> Int64Array:
        """A row for each of the drawn orders of experts."""
        counts: Int64Array = self._rng.multinomial(tokens * self._per_token, self._chances)
        for row, chances in zip(counts, self._chances, strict=True):
            self._deal_again(row, chances, tokens)
        return counts

    def _deal_again(
        self, row: Int64Array, chances: np.ndarray[Any, np.dtype[np.float64]], tokens: int
    ) -> None:
        while (excess := int(np.maximum(row - tokens, 0).sum())) > 0:
            np.minimum(row, tokens, out=row)
            left = np.where(row < tokens, chances, 0.0)
            row += self._rng.multinomial(excess, left / left.sum())

"""Options of prefill policies and routers, ``key=value,...``, typed by one frozen dataclass each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

_MOST = 1e12


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What every prefill policy takes.

    Attributes:
        chunk: Most tokens of one prompt in an iteration; 0: as many as the token budget allows.
        tau: A chunk predicted to take more seconds than this is halved; 0: never.
        groups: Layer groups of a chunk that does not finish its prompt; preemption is possible between them.
        density: Whether a batch is filled only while that lowers the mean slowdown (HoL density batch),
            instead of up to the token budget.
        error: Sigma of the lognormal error that predicted times are given, to study misprediction.
        seed: Seed of that error.
    """

    chunk: int = 0
    tau: float = 0.0
    groups: int = 1
    density: bool = False
    error: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        for name, least, most in (("chunk", 0, _MOST), ("tau", 0, 1e6), ("groups", 1, 64), ("error", 0, 3)):
            check_range(name, getattr(self, name), least, most)
        check_range("seed", self.seed, 0, _MOST)


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise ValueError, naming the option, unless ``least <= value <= most``."""
    if not least <= value <= most:
        raise ValueError(f"{name}={value:g}: must be between {least:g} and {most:g}")


OptionsT = TypeVar("OptionsT")


def parse_pairs(text: str) -> dict[str, str]:
    """Split ``a=1,b=2``; raises ValueError for a part without ``=`` or a name given twice.

    >>> parse_pairs("beta=0.5, groups=4")
    {'beta': '0.5', 'groups': '4'}
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise ValueError(f"{part!r}: write name=value, several separated by commas")
        if name in pairs:
            raise ValueError(f"{name} is given twice")
        pairs[name] = value
    return pairs


def make_options(kind: type[OptionsT], pairs: Mapping[str, str]) -> OptionsT:
    """Build the dataclass ``kind`` from text; raises ValueError that names what is wrong and what would be right."""
    known = {one.name: one.default for one in fields(kind)}  # type: ignore[arg-type]  # no type says "a dataclass"
    values: dict[str, object] = {}
    for name, text in pairs.items():
        if name not in known:
            raise ValueError(f"{name} is unknown; this policy takes {', '.join(known) or 'no options'}")
        values[name] = _value(name, text, known[name])
    return kind(**values)


def options_of(factory: object, name: str, pairs: Mapping[str, str]) -> list[Any]:
    """Arguments of a class from text: one of its ``options_type``, or none where it takes no options.

    Raises ValueError that names what is wrong and what would be right; ``name`` is what users call the class.
    """
    kind = getattr(factory, "options_type", None)
    if kind is not None:
        return [make_options(kind, pairs)]
    if pairs:
        raise ValueError(f"{name} takes no options; drop {', '.join(pairs)}")
    return []


def parse_bool(name: str, text: str) -> bool:
    """Read a truth value; raises ValueError, naming the option."""
    if text.lower() not in _BOOLS:
        raise ValueError(f"{name}={text}: must be true or false")
    return _BOOLS[text.lower()]


def _value(name: str, text: str, default: object) -> object:
    if isinstance(default, bool):
        return parse_bool(name, text)
    kind = type(default)
    try:
        value = kind(text)  # type: ignore[call-arg]  # int and float take text
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={text}: must be {noun}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={text}: must be a finite number")
    return value


_BOOLS = {
    "true": True,
    "on": True,
    "1": True,
    "yes": True,
    "false": False,
    "off": False,
    "0": False,
    "no": False,
}

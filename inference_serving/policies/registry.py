"""Prefill policies by name, and a user's own by ``module:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from inference_serving.policies.options import PolicyOptions, make_options
from inference_serving.policies.prefill import CostModel, PrefillPolicy


class PrefillPolicyClass(Protocol):
    """A class of prefill policies: its options, and how one is made."""

    options_type: Any
    """A dataclass of options, a subclass of ``PolicyOptions``."""

    def __call__(self, costs: CostModel, options: Any, token_budget: int) -> PrefillPolicy:
        """A policy for one instance; ``token_budget`` is the most tokens of an iteration."""
        ...


_PARTS = ("options_type", "plan", "on_arrival", "on_progress", "on_warm_change", "on_finish")
ClassT = TypeVar("ClassT", bound=PrefillPolicyClass)
_POLICIES: dict[str, PrefillPolicyClass] = {}


def register_prefill_policy(name: str) -> Callable[[ClassT], ClassT]:
    """Class decorator that makes a prefill policy available under ``name``."""

    def register(policy: ClassT) -> ClassT:
        _POLICIES[name] = policy
        return policy

    return register


def prefill_policy_names() -> list[str]:
    """Names of the registered prefill policies."""
    return sorted(_POLICIES)


def import_class(name: str) -> Any:
    """What ``module:Class`` names; raises ValueError that says what is wrong with it."""
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} is unknown")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does while it is imported
        raise ValueError(f"{name!r}: cannot import {module_name}: {error}") from None
    if not hasattr(module, class_name):
        raise ValueError(f"{name!r}: module {module_name} has no {class_name}")
    return getattr(module, class_name)


def find_prefill_policy(name: str) -> PrefillPolicyClass:
    """The class behind a name or a ``module:Class``; raises ValueError that says what would be right."""
    if name in _POLICIES:
        return _POLICIES[name]
    found = import_class(name)
    if not all(hasattr(found, part) for part in _PARTS):
        raise ValueError(f"{name!r}: not a prefill policy; see docs/extending.md")
    policy: PrefillPolicyClass = found
    return policy


def make_prefill_policy(
    name: str, args: Mapping[str, str], costs: CostModel, token_budget: int, most_groups: int = 1
) -> PrefillPolicy:
    """A new policy object, whose chunks are cut into at most ``most_groups`` layer groups.

    Raises ValueError for an unknown name or option.
    """
    kind = find_prefill_policy(name)
    options: PolicyOptions = make_options(kind.options_type, args)
    return kind(costs, replace(options, groups=min(options.groups, most_groups)), token_budget)


def check_prefill_policy(name: str, args: Mapping[str, str]) -> None:
    """Raise ValueError for an unknown prefill policy or option, without making one."""
    make_options(find_prefill_policy(name).options_type, args)

"""Prefill policies by name, and a user's own by ``module:Class``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from inference_serving.policies.base import policy_names
from inference_serving.policies.options import PolicyOptions, make_options
from inference_serving.registry import Registry

if TYPE_CHECKING:
    from inference_serving.policies.prefill import CostModel, PrefillPolicy


class PrefillPolicyClass(Protocol):
    """A class of prefill policies: its options, and how one is made."""

    options_type: Any
    """A dataclass of options, a subclass of ``PolicyOptions``."""

    def __call__(self, costs: CostModel, options: Any, token_budget: int) -> PrefillPolicy:
        """A policy for one instance; ``token_budget`` is the most tokens of an iteration."""
        ...


def _built_in(place: str) -> str:
    return f"inference_serving.policies.{place}"


ClassT = TypeVar("ClassT", bound=PrefillPolicyClass)
PREFILL_POLICIES: Registry[PrefillPolicyClass] = Registry(
    "a prefill policy",
    "docs/extending.md",
    ("options_type", "plan", "on_arrival", "on_progress", "on_warm_change", "on_finish"),
    {
        "arrival-order": _built_in("shortest:ArrivalOrder"),
        "bounded-overtake": _built_in("bounded_overtake:BoundedOvertake"),
        "fsp": _built_in("fair:FairSojourn"),
        "hrrn": _built_in("aging:HighestResponseRatio"),
        "lars": _built_in("deadlines:RelativeSlack"),
        "long-caps": _built_in("long_caps:LongCaps"),
        "mlfq": _built_in("feedback:SkipJoinMlfq"),
        "sjf": _built_in("shortest:ShortestJobFirst"),
        "slack-edf": _built_in("deadlines:LeastSlack"),
        "sptp": _built_in("shortest:ShortestProduct"),
        "srpt": _built_in("shortest:ShortestRemaining"),
        "srpt-aging": _built_in("aging:ShortestRemainingAging"),
        "vtc": _built_in("fair:VirtualTokenCounter"),
    },
    other_names=policy_names,
)


def register_prefill_policy(name: str) -> Callable[[ClassT], ClassT]:
    """Class decorator that makes a prefill policy available under ``name``."""
    return PREFILL_POLICIES.register(name)


def prefill_policy_names() -> list[str]:
    """Names of the prefill policies."""
    return PREFILL_POLICIES.names()


def find_prefill_policy(name: str) -> PrefillPolicyClass:
    """The class behind a name or a ``module:Class``; raises ValueError that says what would be right."""
    return PREFILL_POLICIES.find(name)


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

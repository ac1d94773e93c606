"""Scheduling policies: who goes first, and who gives way when KV blocks run out.

A policy orders requests; it never touches KV blocks or token budgets, which are the scheduler's. There are
two kinds. An *engine policy* (fcfs, priority) orders the waiting queue, as a serving engine does; a new one
is one file here that registers a class with :func:`register_policy`. A *prefill policy* also chooses among
half-done prompts, batch by batch; a new one registers with :func:`register_prefill_policy`.
"""

from collections.abc import Mapping

from inference_serving.policies import (  # noqa: F401  (importing a policy registers it)
    aging,
    bounded_overtake,
    deadlines,
    fair,
    fcfs,
    feedback,
    long_caps,
    priority,
    shortest,
)
from inference_serving.policies.base import SchedulingPolicy, make_policy, policy_names, register_policy
from inference_serving.policies.registry import (
    check_prefill_policy,
    make_prefill_policy,
    prefill_policy_names,
    register_prefill_policy,
)


def is_policy(name: str) -> bool:
    """Whether there is a policy of this name."""
    return name in policy_names() or name in prefill_policy_names()


def check_policy(name: str, args: Mapping[str, str]) -> None:
    """Raise ValueError, saying what would be right, for a policy or option that does not exist."""
    if name in policy_names():
        if args:
            raise ValueError(f"{name} takes no options; drop {', '.join(args)}")
        return
    try:
        check_prefill_policy(name, args)
    except ValueError as error:
        if str(error).endswith("is unknown"):
            names = ", ".join([*policy_names(), *prefill_policy_names()])
            raise ValueError(f"{error}; use one of {names}, or your own by module:Class") from None
        raise


__all__ = [
    "SchedulingPolicy",
    "check_policy",
    "is_policy",
    "make_policy",
    "make_prefill_policy",
    "policy_names",
    "prefill_policy_names",
    "register_policy",
    "register_prefill_policy",
]

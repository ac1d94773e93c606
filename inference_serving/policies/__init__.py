"""Scheduling policies: who goes first, and who gives way when KV blocks run out.

A policy orders requests; it never touches KV blocks or token budgets, which are the scheduler's. There are
two kinds. An *engine policy* (fcfs, priority) orders the waiting queue, as a serving engine does; a new one
is one file here, and its name in ``POLICIES`` in base.py. A *prefill policy* also chooses among half-done
prompts, batch by batch; its name is in ``PREFILL_POLICIES`` in registry.py. Files are imported when used.
"""

from collections.abc import Mapping

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
    check_prefill_policy(name, args)


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

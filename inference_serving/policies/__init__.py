"""Scheduling policies: who goes first, and who gives way when KV blocks run out.

A policy orders requests; it never touches KV blocks or token budgets, which are the scheduler's. A new
policy is one file here that registers a class with :func:`register_policy`.
"""

from inference_serving.policies import fcfs, priority  # noqa: F401  (importing a policy registers it)
from inference_serving.policies.base import SchedulingPolicy, make_policy, policy_names, register_policy

__all__ = ["SchedulingPolicy", "make_policy", "policy_names", "register_policy"]

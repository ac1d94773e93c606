"""Orders by predicted time: the classics that starve long prompts under overload."""

from __future__ import annotations

from inference_serving.policies.ordered import OrderedPolicy, PrefillKey
from inference_serving.policies.prefill import PrefillJob


class ArrivalOrder(OrderedPolicy):
    """First come, first served, with the batch forms of prefill policies (for ablations)."""

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Arrival, which ties decide."""
        return ()


class ShortestJobFirst(OrderedPolicy):
    """The prompt with the least isolated time; a started one gives way to a shorter."""

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Isolated time."""
        return (job.isolated_ns,)


class ShortestRemaining(OrderedPolicy):
    """Shortest remaining prefill time first (Schrage 1968): optimal mean, no protection of long prompts."""

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Remaining time."""
        return (job.remaining_ns,)


class ShortestProduct(OrderedPolicy):
    """Smallest isolated times remaining time: minimises the mean slowdown in M/G/1 (Hyytia et al., 2012)."""

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Isolated time times remaining time."""
        return (job.isolated_ns * job.remaining_ns,)

"""Orders by slack: a prompt has until a deadline that grows with its length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_serving.policies.forecasting import NS_PER_S
from inference_serving.policies.options import PolicyOptions, check_range
from inference_serving.policies.ordered import OrderedPolicy, PrefillKey
from inference_serving.policies.prefill import PrefillJob
from inference_serving.policies.vector_ordered import Floats, VectorOrderedPolicy


@dataclass(frozen=True, slots=True)
class DeadlineOptions(PolicyOptions):
    """Options of ``slack-edf`` and ``lars``: the target of a prompt's time to first token.

    The target is ``slo_factor * isolated time + constant``, at least ``floor``.

    Attributes:
        slo_factor: Part of the target that grows with the prompt's isolated time.
        constant: Seconds that every prompt gets besides.
        floor: Least target in seconds.
    """

    slo_factor: float = 20.0
    constant: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        PolicyOptions.__post_init__(self)
        for name in ("slo_factor", "constant", "floor"):
            check_range(name, getattr(self, name), 0, 1e6)


class LeastSlack(OrderedPolicy):
    """Least slack first: deadline - now - remaining time (Mok, 1983; EDF with the time to run taken off).

    Time runs equally for all, so the order of two jobs changes only by their own progress.
    """

    options_type = DeadlineOptions
    options: DeadlineOptions

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """The latest time at which the job, run from then on alone, meets its deadline."""
        options = self.options
        target_ns = options.slo_factor * job.isolated_ns + options.constant * NS_PER_S
        return (job.arrival_ns + max(target_ns, options.floor * NS_PER_S) - job.remaining_ns,)


class RelativeSlack(VectorOrderedPolicy):
    """Length-aware relative slack first (LARS; Medha, Agrawal et al., 2024, arXiv:2409.17264).

    Our reading, since the paper leaves the constants to the operator: slack as in ``slack-edf``, divided by
    the prompt's isolated time, so that a second of delay weighs as much as it slows the prompt down; the
    least goes first, chosen anew at every scheduling boundary. Where the target is ``slo_factor`` times the
    isolated time and nothing else (the default), the relative slack is ``slo_factor`` less the slowdown that the
    job would end with: the order of ``hrrn``, whatever the factor. ``floor`` and ``constant`` give short
    prompts a target that does not shrink with them, as an operator's fixed TTFT target does; they then wait
    until it is near.
    """

    options_type = DeadlineOptions
    options: DeadlineOptions

    def scores(self, now_ns: int) -> Floats:
        """Slack per isolated time."""
        options = self.options
        target_ns = options.slo_factor * self.isolated_ns + options.constant * NS_PER_S
        deadline_ns = self.arrival_ns + np.maximum(target_ns, options.floor * NS_PER_S)
        slack: Floats = (deadline_ns - now_ns - self.remaining_ns) / self.isolated_ns
        return slack

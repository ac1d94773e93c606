"""Shortest first, but who has waited long counts as shorter: protection of long prompts without a guarantee."""

from __future__ import annotations

from dataclasses import dataclass

from inference_serving.policies.options import PolicyOptions, check_range
from inference_serving.policies.ordered import OrderedPolicy, PrefillKey
from inference_serving.policies.prefill import PrefillJob
from inference_serving.policies.vector_ordered import Floats, VectorOrderedPolicy


@dataclass(frozen=True, slots=True)
class AgingOptions(PolicyOptions):
    """Options of ``srpt-aging``.

    Attributes:
        aging: Seconds of remaining time that a second since arrival makes up for; 0: plain srpt.
    """

    aging: float = 0.02

    def __post_init__(self) -> None:
        """Refuse values out of range; raises ValueError, naming the option."""
        PolicyOptions.__post_init__(self)
        check_range("aging", self.aging, 0, 1e6)


class ShortestRemainingAging(OrderedPolicy):
    """Remaining time less ``aging`` times the time since arrival; the textbook cure of SRPT's starvation.

    All jobs age at one rate, so what counts between two of them is ``remaining + aging * arrival``, which
    time does not change.
    """

    options_type = AgingOptions
    options: AgingOptions

    def key(self, job: PrefillJob, now_ns: int) -> PrefillKey:
        """Remaining time, and the age that the job lacks."""
        return (job.remaining_ns + self.options.aging * job.arrival_ns,)


class HighestResponseRatio(VectorOrderedPolicy):
    """Highest response ratio next: (waiting + service) / service (Brinch Hansen, 1971).

    The original never interrupts a job. Here the choice is made anew at every scheduling boundary, with all
    time that the job did not run as waiting: the ratio is the slowdown that the job would end with if it ran
    from now on. While a job runs its ratio stands still and those of the others grow.
    """

    def scores(self, now_ns: int) -> Floats:
        """The ratio, negated."""
        ratio: Floats = (self.arrival_ns - now_ns - self.remaining_ns) / self.isolated_ns
        return ratio

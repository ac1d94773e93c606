"""Speculative decoding: what is asked for, what came of it, and what a summary says of it.

Drafts are tokens that something cheap proposes; one iteration of the model verifies them all and keeps those before
the first one that it would not have sampled itself, and one token more (Leviathan et al., ICML 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_DRAFTS = 63
"""Most draft tokens of a request in an iteration: with the token before them they are a tile of queries (64) of the
attention kernels, which reads a request's KV once."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """How an instance speculates.

    ``num_tokens`` are the draft tokens of a request in an iteration, ``acceptance_rate`` is the chance that one is
    accepted if all before it were, ``draft_overhead_ns`` the time that drafting takes before an iteration, for each
    draft token of the request that has most of them.
    """

    num_tokens: int
    acceptance_rate: float
    draft_overhead_ns: int = 0

    @property
    def expected_tokens(self) -> float:
        """Tokens that an iteration with ``num_tokens`` drafts brings a request on average (Leviathan et al., eq. 1).

        >>> Speculation(num_tokens=1, acceptance_rate=0.5).expected_tokens
        1.5
        """
        rate = self.acceptance_rate
        return float(sum(rate**accepted for accepted in range(self.num_tokens + 1)))


@dataclass(slots=True)
class DraftStatistics:
    """Verifications (one for each request and iteration with drafts), drafts verified, and those accepted."""

    verifications: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens that a verification brought, the one that needs no draft included; 1 before the first."""
        return 1 + self.accepted_tokens / max(self.verifications, 1)


def draft_facts(drafts: DraftStatistics | None) -> dict[str, dict[str, float]]:
    """An instance's drafts, for the summary's JSON; empty without speculation."""
    if drafts is None:
        return {}
    return {
        "speculation": {
            "verifications": drafts.verifications,
            "draft_tokens": drafts.draft_tokens,
            "accepted_tokens": drafts.accepted_tokens,
            "mean_acceptance_length": drafts.mean_acceptance_length,
        }
    }


def draft_lines(drafts: DraftStatistics | None) -> list[tuple[str, str]]:
    """The same for the summary on stdout."""
    if drafts is None:
        return []
    return [
        ("Draft tokens", str(drafts.draft_tokens)),
        ("Accepted draft tokens", str(drafts.accepted_tokens)),
        ("Mean acceptance length (tokens)", f"{drafts.mean_acceptance_length:.2f}"),
    ]

"""Speculative decoding on the command line and in an instance of a cluster config; what it cannot be combined with."""

from __future__ import annotations

import argparse

from astra_sim.input_error import InputError
from inference_serving.cluster_schema import InstanceSection
from inference_serving.policies import policy_names
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.speculation.drafts import MOST_DRAFTS, Speculation

_MOST_NS = 10**12


def add_speculation_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags; the same names without dashes are fields of an instance."""
    group.add_argument(
        "--num-speculative-tokens",
        type=int,
        default=0,
        metavar="K",
        help="draft tokens that an iteration verifies for each decoding request, 0 = off; see docs/speculative.md",
    )
    group.add_argument(
        "--speculative-acceptance-rate",
        type=float,
        metavar="A",
        help="chance from 0 to 1 that a draft token is accepted if all before it were (needed with drafts)",
    )
    group.add_argument(
        "--speculative-draft-overhead",
        type=int,
        metavar="NS",
        help="time that drafting takes for each of the K tokens in an iteration (default: 0, as n-grams)",
    )


def speculation_of_flags(args: argparse.Namespace) -> Speculation | None:
    """What the flags ask for; raises InputError for a wrong number, and for a flag that has no effect."""
    tokens, rate = args.num_speculative_tokens, args.speculative_acceptance_rate
    overhead_ns = args.speculative_draft_overhead
    if not 0 <= tokens <= MOST_DRAFTS:
        raise InputError("", "--num-speculative-tokens", f"{tokens}: must be from 0 to {MOST_DRAFTS}")
    if not tokens:
        for flag, value in (
            ("--speculative-acceptance-rate", rate),
            ("--speculative-draft-overhead", overhead_ns),
        ):
            if value is not None:
                raise InputError(
                    "", flag, f"{value}: there are no drafts; give --num-speculative-tokens, too"
                )
        return None
    if rate is None:
        raise InputError("", "--speculative-acceptance-rate", "is missing; give a number from 0 to 1")
    if not 0 <= rate <= 1:
        raise InputError("", "--speculative-acceptance-rate", f"{rate:g}: must be from 0 to 1")
    if overhead_ns is not None and not 0 <= overhead_ns <= _MOST_NS:
        raise InputError(
            "", "--speculative-draft-overhead", f"{overhead_ns}: must be from 0 to {_MOST_NS} nanoseconds"
        )
    return Speculation(tokens, rate, overhead_ns or 0)


def speculation_of_instance(section: InstanceSection, default: Speculation | None) -> Speculation | None:
    """What an instance does: its own fields, the flags' (``default``) for those it leaves out.

    A prefill instance decodes nothing, so the flags do not concern it. Raises InputError, with the field's name only,
    for fields that have no effect or lack one.
    """
    tokens, rate = section.num_speculative_tokens, section.speculative_acceptance_rate
    overhead_ns = section.speculative_draft_overhead
    own = {
        "num_speculative_tokens": tokens or None,
        "speculative_acceptance_rate": rate,
        "speculative_draft_overhead": overhead_ns,
    }
    first = next((name for name, value in own.items() if value is not None), None)
    if section.pd_type == "prefill":
        if first is not None:
            raise InputError("", first, f"{own[first]}: a prefill instance decodes nothing; remove the field")
        return None
    if tokens is None and default is not None:
        tokens = default.num_tokens
    if not tokens:
        if first is not None:
            raise InputError("", first, f"{own[first]}: there are no drafts; set num_speculative_tokens, too")
        return None
    if rate is None and default is None:
        raise InputError("", "speculative_acceptance_rate", "is missing; give a number from 0 to 1")
    base = default or Speculation(tokens, 0.0)
    return Speculation(
        tokens,
        base.acceptance_rate if rate is None else rate,
        base.draft_overhead_ns if overhead_ns is None else overhead_ns,
    )


def refuse_with_speculation(
    section: InstanceSection, settings: SchedulerSettings, config: SimulationConfig
) -> None:
    """Raise InputError, with the field's name only, for what an instance that speculates cannot do."""
    if settings.speculation is None:
        return
    tokens = settings.speculation.num_tokens
    off = "set it (here, or by --num-speculative-tokens) to 0"
    if settings.async_scheduling:
        reason = "a batch formed ahead would have to know how many drafts of the running one are accepted"
    elif settings.scheduling_policy not in policy_names() and section.pd_type is None:
        names = ", ".join(policy_names())
        reason = f"{settings.scheduling_policy} does not count with drafts; use one of {names}"
    elif config.prefix_storage is not None and settings.enable_prefix_caching:
        reason = "--prefix-storage writes chunks before it is known which drafts are in them; drop that flag"
    elif config.attn_offloading:
        reason = (
            "--enable-attn-offloading runs attention in memory for one token of a request; drop that flag"
        )
    else:
        return
    raise InputError("", "num_speculative_tokens", f"{tokens}: {reason}, or {off}")

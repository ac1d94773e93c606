"""How long a prefill policy thinks: CPU microseconds a decision, against the number of waiting prompts.

A decision is one iteration's share of everything that a policy does: the arrivals that replace what has
finished, the plan, the progress. Costs are a closed form, so that only the policy is timed; a latency model's
own time comes on top, ``costs asked`` times a decision.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from inference_serving.policies import make_prefill_policy, prefill_policy_names
from inference_serving.policies.prefill import PrefillJob, PrefillPolicy, account

_TOKEN_BUDGET = 8192
_MEDIAN_SHORT, _SHORT_SIGMA, _SHORTEST, _LONGEST_SHORT = 512, 0.8, 64, 2048
_LONG, _LONG_SHARE = 32768, 0.02
_GAP_NS = 40_000_000


class ClosedForm:
    """5 ms an iteration, 33 us a token, 1 ns a pair of query and key, about Llama-3.1-8B on an H100."""

    def __init__(self) -> None:
        self.asked = 0

    def batch_ns(self, chunks: Sequence[tuple[int, int]]) -> int:
        """Time of one iteration."""
        self.asked += 1
        return 5_000_000 + sum(
            tokens * 33_000 + tokens * context + tokens * tokens // 2 for tokens, context in chunks
        )

    def group_ns(self, tokens: int, context: int, group: int, groups: int) -> int:
        """An even share of the iteration."""
        return self.batch_ns([(tokens, context)]) // groups


class Instance:
    """A policy with always the same number of unfinished prompts."""

    def __init__(self, name: str, waiting: int, seed: int) -> None:
        self.costs = ClosedForm()
        self.policy: PrefillPolicy = make_prefill_policy(name, {}, self.costs, _TOKEN_BUDGET, most_groups=32)
        self._rng = np.random.default_rng(seed)
        self._arrived = 0
        self._now_ns = waiting * _GAP_NS
        for number in range(waiting):
            self._arrive(number * _GAP_NS)

    def decide(self) -> float:
        """CPU microseconds of one decision; the prompts that it completes are replaced in the next."""
        begin = time.thread_time_ns()
        plan = self.policy.plan(_TOKEN_BUDGET, self._now_ns, lambda job: True)
        spent_ns = time.thread_time_ns() - begin
        assert plan is not None
        for chunk in plan.chunks:
            chunk.job.started = True
        account(plan)
        start_ns, self._now_ns = self._now_ns, self._now_ns + plan.predicted_ns
        done = [chunk.job for chunk in plan.chunks if not chunk.job.remaining_tokens]
        begin = time.thread_time_ns()
        self.policy.on_progress(plan, start_ns, self._now_ns)
        for job in done:
            self.policy.on_finish(job, self._now_ns)
        spent_ns += time.thread_time_ns() - begin
        return (spent_ns + sum(self._arrive(self._now_ns) for _ in done)) / 1000

    def _arrive(self, arrival_ns: int) -> int:
        """CPU nanoseconds of one arrival."""
        short = int(np.exp(self._rng.normal(np.log(_MEDIAN_SHORT), _SHORT_SIGMA)))
        is_long = self._rng.random() < _LONG_SHARE
        tokens = _LONG if is_long else min(max(short, _SHORTEST), _LONGEST_SHORT)
        job = PrefillJob(self._arrived, arrival_ns, self._arrived, tokens)
        self._arrived += 1
        begin = time.thread_time_ns()
        self.policy.on_arrival(job, arrival_ns)
        return time.thread_time_ns() - begin


def measure(name: str, waiting: int, decisions: int, seed: int) -> dict[str, object]:
    """Median and p99 of the time of a decision."""
    instance = Instance(name, waiting, seed)
    for _ in range(decisions // 10):
        instance.decide()
    instance.costs.asked = 0
    gc.collect()
    spent_us = [instance.decide() for _ in range(decisions)]
    return {
        "policy": name,
        "waiting": waiting,
        "median_us": float(np.median(spent_us)),
        "p99_us": float(np.percentile(spent_us, 99)),
        "max_us": max(spent_us),
        "costs asked": instance.costs.asked / decisions,
    }


def print_table(rows: list[dict[str, object]]) -> None:
    """Print rows."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.0f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", nargs="+", choices=prefill_policy_names(), default=prefill_policy_names())
    parser.add_argument("--waiting", nargs="+", type=int, default=[10, 100, 1000, 10_000], metavar="N")
    parser.add_argument(
        "--decisions", type=int, default=1000, help="timed decisions each (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args()
    rows = [
        measure(name, waiting, options.decisions, options.seed)
        for name in options.policy
        for waiting in options.waiting
    ]
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

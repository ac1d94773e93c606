"""``python -m inference_serving.iteration_times SERIES --dataset D``: how long a run's iterations took.

SERIES has generated tokens a second of an engine with continuous batching, which gave every running request one token
an iteration; D is its workload. So the tokens of an interval say how many iterations it had. Printed are the mean
requests, KV tokens and iteration time of each interval, and a line through those without prompts: what grows with the
KV is attention, the rest is everything else. Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.dataset import read_dataset
from inference_serving.request_spec import RequestSpec
from inference_serving.validation.readers.series_table import read_series
from inference_serving.validation.run import FloatArray, Series

FEWEST_REQUESTS = 8
"""Intervals with fewer are left out of the line: the end of a single request makes too much of a difference there."""
MOST_MISSING = 0.05
"""Tokens that a series may lack or have too many, as a share of its workload's."""
_BISECTIONS = 50


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a series that ends at ``end_s``: means over its iterations, and prompt tokens that arrived."""

    end_s: float
    requests: float
    kv_tokens: float
    prompt_tokens: int
    iteration_ms: float


@dataclass(frozen=True, slots=True)
class Line:
    """``constant_ms + kv_token_us / 1000 * KV tokens``, off by ``rms_ms`` in the quadratic mean."""

    constant_ms: float
    kv_token_us: float
    rms_ms: float
    intervals: int


def iteration_times(
    series: Series, workload: Sequence[RequestSpec], max_num_seqs: int = 256
) -> list[Interval]:
    """Intervals in which tokens came out; at most ``max_num_seqs`` requests run, the earliest arrivals.

    Queueing for other reasons (KV, token budgets) and iterations without a token for somebody are not seen.
    """
    arrivals_s = np.array([one.arrival_ns for one in workload]) / 1e9
    prompts = np.array([one.input_tokens for one in workload], dtype=np.float64)
    outputs = np.array([one.output_tokens for one in workload], dtype=np.float64)
    made, found = np.zeros(len(workload)), []
    for index, rate in enumerate(series.generated.tolist()):
        start_s, end_s = index * series.step_s, (index + 1) * series.step_s
        live = np.flatnonzero((arrivals_s < end_s) & (made < outputs))[:max_num_seqs]
        present_s = np.minimum(end_s - arrivals_s[live], series.step_s)
        left = outputs[live] - made[live]
        per_s = _iterations_per_s(min(rate * series.step_s, float(left.sum())), present_s, left)
        new = np.minimum(left, per_s * present_s)
        if per_s > 0:
            running_s = new / per_s
            kv = prompts[live] + made[live] + new / 2
            arrived = (arrivals_s >= start_s) & (arrivals_s < end_s)
            found.append(
                Interval(
                    end_s,
                    float(running_s.sum()) / series.step_s,
                    float((kv * running_s).sum()) / series.step_s,
                    int(prompts[arrived].sum()),
                    1e3 / per_s,
                )
            )
        made[live] += new
    return found


def _iterations_per_s(tokens: float, present_s: FloatArray, left: FloatArray) -> float:
    """The rate at which requests with ``left`` tokens to go, here for ``present_s``, make ``tokens``."""
    if tokens <= 0:
        return 0.0
    low, high = 0.0, float((left / present_s).max())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = float(np.minimum(left, middle * present_s).sum()) >= tokens
        low, high = (low, middle) if enough else (middle, high)
    return high


def line_of(intervals: Sequence[Interval]) -> Line | None:
    """Least squares over intervals after the last prompt with enough requests; None if they are fewer than three."""
    last = max((one.end_s for one in intervals if one.prompt_tokens), default=0.0)
    tail = [one for one in intervals if one.end_s > last and one.requests >= FEWEST_REQUESTS]
    if len(tail) < 3:
        return None
    kv, times = (np.array([getattr(one, name) for one in tail]) for name in ("kv_tokens", "iteration_ms"))
    slope, constant = np.polyfit(kv, times, 1)
    rms = float(np.sqrt(np.mean((constant + slope * kv - times) ** 2)))
    return Line(float(constant), float(slope) * 1e3, rms, len(tail))


def _check_tokens(file: Path, series: Series, workload: Sequence[RequestSpec]) -> None:
    """A series of another workload, or of a part of it, would give times that nobody had."""
    made = float(series.generated.sum()) * series.step_s
    asked = sum(one.output_tokens for one in workload)
    if abs(made / asked - 1) > MOST_MISSING:
        raise InputError(
            file,
            "throughput",
            f"sums to {made:.0f} tokens, but the workload generates {asked}; give the workload of this run",
        )


def main(argv: list[str] | None = None) -> int:
    """Print the table and the line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m inference_serving.iteration_times",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("series", type=Path, metavar="SERIES", help="throughput series, .tsv or .csv")
    parser.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="its workload")
    parser.add_argument(
        "--max-num-seqs", type=int, default=256, metavar="N", help="requests that run at most"
    )
    args = parser.parse_args(argv)
    try:
        if args.max_num_seqs < 1:
            raise InputError("", "--max-num-seqs", f"{args.max_num_seqs}: must be at least 1")
        workload = read_dataset(args.dataset)
        if any(one.session is not None for one in workload):
            raise InputError(
                args.dataset, "sub_requests", "arrivals of later turns are not known; give requests"
            )
        series = read_series(args.series)
        _check_tokens(args.series, series, workload)
        intervals = iteration_times(series, workload, args.max_num_seqs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'until (s)':>10}{'requests':>10}{'KV tokens':>11}{'prompt tokens':>15}{'iteration (ms)':>16}")
    for one in intervals:
        print(
            f"{one.end_s:>10.1f}{one.requests:>10.1f}{one.kv_tokens:>11.0f}{one.prompt_tokens:>15}"
            f"{one.iteration_ms:>16.1f}"
        )
    line = line_of(intervals)
    if line is not None:
        print(
            f"without prompts, {line.intervals} intervals of {FEWEST_REQUESTS} requests or more: "
            f"{line.constant_ms:.1f} ms + {line.kv_token_us:.3f} us a KV token (rms {line.rms_ms:.1f} ms)"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

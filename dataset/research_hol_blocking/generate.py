"""``python -m dataset.research_hol_blocking.generate KIND --output FILE``: workloads with rare long prompts.

A seed fixes every byte. Classes, lengths, arrivals and token ids have a random stream each, so with one seed
all kinds have the same short requests, all loads the same requests, and a longer workload begins like a
shorter one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from dataset.generate import (
    LLAMA_3_VOCABULARY,
    Ints,
    Parser,
    Sampler,
    positive_number,
    seed_number,
    whole_number,
)
from dataset.research_hol_blocking.arrivals import (
    Phase,
    arrival_process,
    phased_arrivals,
    phases,
    steady_arrivals,
)
from dataset.research_hol_blocking.kinds import KINDS, LONG_OUTPUT, SHORT_OUTPUT, Kind
from dataset.workload import LONG, SHORT, WorkloadRequest, workload_line
from inference_serving.files import check_writable, write_whole

MS_PER_S = 1e3

EXAMPLES = """\
rates and loads:
  --rate 5 --requests 1000             5 requests a second on average
  --rate 5:60,0:30,2:60                5 a second for 60 s, none for 30 s, 2 a second for 60 s
  --load 0.9 --isolated-mean-ms 130    LOAD * INSTANCES / MEAN requests a second, where MEAN is how long an
                                       instance takes for the prefill of a request on average, each alone
  --load 1.1:60 --isolated-mean-ms 130 more than one instance can do for 60 s, and then it may drain
The requests of flood and convoy that arrive at time 0 come on top, in rate and in number.

example:
  python -m dataset.research_hol_blocking.generate long5-32k --load 0.9 --isolated-mean-ms 130 \\
      --requests 20000 --arrivals gamma:2 --seed 1 --output output/hol.jsonl
"""


@dataclass(frozen=True, slots=True)
class Streams:
    """A random stream for each thing that is drawn."""

    classes: np.random.Generator
    short_input: np.random.Generator
    short_output: np.random.Generator
    long_input: np.random.Generator
    long_output: np.random.Generator
    start_output: np.random.Generator
    arrivals: np.random.Generator
    token_ids: np.random.Generator

    @classmethod
    def of_seed(cls, seed: int) -> Streams:
        """Streams that do not depend on each other."""
        return cls(*np.random.default_rng(seed).spawn(8))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the workload that the command line describes; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    rates = _rates(parser, arguments)
    kind, streams = KINDS[arguments.kind], Streams.of_seed(arguments.seed)
    try:
        check_writable(arguments.output, "--output")
        arrivals_ns = _arrivals(arguments.arrivals, streams.arrivals, rates, arguments.requests)
        requests = draw_requests(kind, streams, arrivals_ns)
        shared = (
            kind.shared_prefix_toks if arguments.shared_prefix_toks is None else arguments.shared_prefix_toks
        )
        write_whole(arguments.output, _lines(requests, streams.token_ids, shared, arguments.vocab_size))
    except InputError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--output: {arguments.output}: cannot be written: {error.strerror}")
    return 0


def draw_requests(kind: Kind, streams: Streams, arrivals_ns: Ints) -> list[WorkloadRequest]:
    """Draw the requests of ``kind`` that arrive at ``arrivals_ns`` (sorted), after those of time 0."""
    count = len(arrivals_ns)
    is_long = kind.is_long(streams.classes, count)
    inputs = np.where(
        is_long, kind.long_input(streams.long_input, count), kind.short_input(streams.short_input, count)
    )
    outputs = np.where(
        is_long, LONG_OUTPUT(streams.long_output, count), SHORT_OUTPUT(streams.short_output, count)
    )
    start_outputs = LONG_OUTPUT(streams.start_output, len(kind.at_start)).tolist()
    first = [WorkloadRequest(0, *lengths, LONG) for lengths in zip(kind.at_start, start_outputs, strict=True)]
    stream = zip(arrivals_ns.tolist(), inputs.tolist(), outputs.tolist(), is_long.tolist(), strict=True)
    return first + [WorkloadRequest(at, i, o, LONG if long else SHORT) for at, i, o, long in stream]


def _arrivals(
    process: Sampler, rng: np.random.Generator, rates: tuple[Phase, ...], count: int | None
) -> Ints:
    if count is not None:
        return steady_arrivals(process, rng, count, rates[0].level)
    return phased_arrivals(process, rng, rates)


def _lines(
    requests: list[WorkloadRequest], rng: np.random.Generator, shared_toks: int, vocabulary: int
) -> Iterator[str]:
    """Lines of a workload; with ``shared_toks``, token ids that begin alike and go on at random."""
    if not shared_toks:
        yield from map(workload_line, requests)
        return
    shared = rng.integers(0, vocabulary, shared_toks).tolist()
    for request in requests:
        own = rng.integers(0, vocabulary, max(request.input_toks - shared_toks, 0)).tolist()
        yield workload_line(request, shared[: request.input_toks] + own)


def _rates(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> tuple[Phase, ...]:
    """The rate as the command line gives it, in requests a second; ends the program if flags do not fit."""
    levels: tuple[Phase, ...] = arguments.rate or arguments.load
    if (levels[0].seconds is None) == (arguments.requests is None):
        parser.error("give either --requests, or a rate or load of phases such as 1.1:60, which has an end")
    if (arguments.load is None) != (arguments.isolated_mean_ms is None):
        parser.error("--load and --isolated-mean-ms go together")
    if arguments.load is None:
        return levels
    per_second = arguments.instances * MS_PER_S / arguments.isolated_mean_ms
    return tuple(Phase(phase.level * per_second, phase.seconds) for phase in levels)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m dataset.research_hol_blocking.generate",
        description="Make a workload in which long prompts stand in the way of short ones.",
        epilog=_kinds_help() + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("kind", choices=tuple(KINDS), metavar="KIND", help="which requests are long, see below")
    add("--output", type=Path, required=True, metavar="FILE", help="file to write, usually named .jsonl")
    level = parser.add_mutually_exclusive_group(required=True)
    level.add_argument("--rate", type=phases, metavar="R", help="requests a second, see below")
    level.add_argument("--load", type=phases, metavar="RHO", help="load of the prefill stage, see below")
    add("--isolated-mean-ms", type=positive_number, metavar="MS", help="mean prefill time of a request alone")
    add("--instances", type=whole_number, default=1, metavar="N", help="prefill instances (default: 1)")
    add("--requests", type=whole_number, metavar="N", help="number of requests, if the rate has no phases")
    add(
        "--arrivals",
        type=arrival_process,
        default=arrival_process("poisson"),
        metavar="A",
        help="poisson, or gamma:CV, gaps with coefficient of variation CV (default: poisson)",
    )
    add("--seed", type=seed_number, default=0, metavar="S", help="seed of all random numbers (default: 0)")
    add(
        "--shared-prefix-toks",
        type=whole_number,
        metavar="P",
        help="write token ids, the first P the same in all prompts (same-prefix: 512)",
    )
    add(
        "--vocab-size",
        type=whole_number,
        default=LLAMA_3_VOCABULARY,
        metavar="V",
        help=f"token ids are below V (default: {LLAMA_3_VOCABULARY}, Llama 3)",
    )
    return parser


def _kinds_help() -> str:
    lines = [f"  {name:<13}{kind.what}\n" for name, kind in KINDS.items()]
    return "kinds:\n" + "".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

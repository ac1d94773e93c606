"""``python -m dataset.convert FORMAT INPUT -o OUT.jsonl``: a recorded trace as a workload."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from dataset.convert import FORMATS
from dataset.convert.base import Trace, TraceFormat
from dataset.convert.injection import Streams, classified, inject, shares, with_fresh_blocks
from dataset.convert.selection import Selection, described, select
from dataset.convert.token_ids import block_token_ids
from dataset.generate import (
    LLAMA_3_VOCABULARY,
    NS_PER_S,
    Parser,
    arrival_times,
    positive_number,
    seed_number,
    token_counts,
    whole_number,
)
from dataset.research_hol_blocking.kinds import LONG_OUTPUT_TEXT
from dataset.workload import LONG, WorkloadRequest, workload_line
from inference_serving.files import check_writable, write_whole

EXAMPLES = """\
examples:
  python -m dataset.convert azure AzureLLMInferenceTrace_conv.csv -o output/azure.jsonl --duration 600
  python -m dataset.convert azure AzureLLMInferenceTrace_code.csv -o output/longs.jsonl --num-req 2000 \\
      --inject-long 0.02:65536 --seed 1
  python -m dataset.convert mooncake conversation_trace.jsonl -o output/mooncake.jsonl --num-req 500 --token-ids
  python -m dataset.convert vllm result.json -o output/again.jsonl --arrivals poisson:5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the workload that the command line describes; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        trace = _convert(arguments, FORMATS[arguments.format])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that has gone
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {_summary(trace.requests)}")
    if trace.left_out:
        print(f"left out: {described(trace.left_out)}")
    return 0


def _convert(arguments: argparse.Namespace, trace_format: TraceFormat) -> Trace:
    """Read, choose, change and write; returns what was written."""
    check_writable(arguments.output, "-o")
    block_toks = trace_format.block_toks if arguments.token_ids else None
    if arguments.token_ids and block_toks is None:
        raise InputError(
            "", "--token-ids", f"{trace_format.name} traces do not say which prompts begin alike"
        )
    arrivals, *streams = np.random.default_rng(arguments.seed).spawn(4)
    trace = select(trace_format.read(arguments.input), _selection(arguments), arrivals)
    requests = trace.requests
    if arguments.inject_long:
        requests = inject(
            requests,
            arguments.inject_long,
            arguments.long_output_toks,
            add=arguments.inject_mode == "add",
            rng=Streams(*streams),
        )
    if arguments.inject_long or arguments.long_from:
        requests = classified(requests, arguments.long_from)
    write_whole(arguments.output, _lines(requests, block_toks, arguments.vocab_size))
    return Trace(requests, trace.left_out)


def _selection(arguments: argparse.Namespace) -> Selection:
    return Selection(
        start_ns=arguments.start,
        duration_ns=arguments.duration,
        num_requests=arguments.num_req,
        max_input_toks=arguments.max_input_toks,
        max_output_toks=arguments.max_output_toks,
        rate_scale=arguments.rate_scale,
        arrivals=arguments.arrivals,
    )


def _lines(requests: Sequence[WorkloadRequest], block_toks: int | None, vocabulary: int) -> Iterator[str]:
    """Lines of a workload, with token ids if blocks have a size."""
    if block_toks is None:
        yield from map(workload_line, requests)
        return
    completed = with_fresh_blocks(requests, block_toks)
    largest = max(max(request.blocks or (0,)) for request in completed)
    if largest >= vocabulary**2:
        raise InputError(
            "", "--vocab-size", f"{vocabulary}: must be above {math.isqrt(largest)} for these hash ids"
        )
    for request in completed:
        ids = block_token_ids(request.blocks or (), request.input_toks, block_toks, vocabulary)
        yield workload_line(request, ids)


def _summary(requests: Sequence[WorkloadRequest]) -> str:
    longs = sum(request.request_class == LONG for request in requests)
    return (
        f"{len(requests)} requests in {requests[-1].arrival_ns / NS_PER_S:.1f} s, "
        f"{sum(request.input_toks for request in requests)} prompt and "
        f"{sum(request.output_toks for request in requests)} answer tokens"
        + (f", {longs} long" if longs else "")
    )


def _seconds(text: str) -> int:
    """Parse seconds, at least 0, into ns."""
    return 0 if text == "0" else round(positive_number(text) * NS_PER_S)


def _parser() -> argparse.ArgumentParser:
    formats = "".join(f"  {one.name:<10}{one.what}\n" for one in FORMATS.values())
    parser = Parser(
        prog="python -m dataset.convert",
        description="Turn a recorded trace into a workload.",
        epilog=f"formats:\n{formats}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("format", choices=tuple(FORMATS), metavar="FORMAT", help="format of the trace, see below")
    add("input", type=Path, metavar="INPUT", help="the trace")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="workload to write")
    add("--seed", type=seed_number, default=0, metavar="S", help="seed of all random numbers (default: 0)")
    _add_selection(parser)
    _add_injection(parser)
    _add_token_ids(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("which requests, and when").add_argument
    add("--start", type=_seconds, default=0, metavar="SEC", help="leave out the first SEC seconds")
    add("--duration", type=_seconds, metavar="SEC", help="take SEC seconds from there")
    add("--num-req", type=whole_number, metavar="N", help="take the first N that the other limits leave")
    add("--max-input-toks", type=whole_number, metavar="N", help="leave out longer prompts")
    add("--max-output-toks", type=whole_number, metavar="N", help="leave out longer answers")
    add("--rate-scale", type=positive_number, default=1.0, metavar="X", help="arrivals X times as fast")
    add(
        "--arrivals",
        type=arrival_times,
        metavar="A",
        help="new arrival times: poisson:RATE, gamma:RATE:CV, constant:RATE or bursts:COUNT:GAP",
    )


def _add_injection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("long prompts").add_argument
    add(
        "--inject-long",
        type=shares,
        metavar="FRACTION:TOKENS,...",
        help="put long prompts into the trace, such as 0.02:65536, and write classes",
    )
    add(
        "--inject-mode",
        choices=("replace", "add"),
        default="replace",
        help="in place of requests, or besides them at random times (default: replace)",
    )
    add(
        "--long-output-toks",
        type=token_counts,
        default=token_counts(LONG_OUTPUT_TEXT),
        metavar="D",
        help=f"answer lengths of injected prompts, as for dataset/generate.py (default: {LONG_OUTPUT_TEXT})",
    )
    add(
        "--long-from",
        type=whole_number,
        metavar="TOKENS",
        help="write classes: prompts of TOKENS or more are long, others short",
    )


def _add_token_ids(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("token ids (mooncake)").add_argument
    add(
        "--token-ids",
        action="store_true",
        help="write token ids that are equal where the trace's blocks are; 2.5 KB a block",
    )
    add(
        "--vocab-size",
        type=whole_number,
        default=LLAMA_3_VOCABULARY,
        metavar="V",
        help=f"token ids are below V (default: {LLAMA_3_VOCABULARY}, Llama 3)",
    )


if __name__ == "__main__":
    sys.exit(main())

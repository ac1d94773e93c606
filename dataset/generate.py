#!/usr/bin/env python3
"""Make synthetic workloads: request lengths and arrival times drawn from distributions you name.

A seed fixes every byte of the file. Lengths, arrivals and token ids have a random stream each, so two
workloads with one seed and one kind of arrivals differ in their lengths only.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Sampler: TypeAlias = Callable[[np.random.Generator, int], Ints]
LengthSampler: TypeAlias = Callable[[np.random.Generator, int], tuple[Ints, Ints]]

MAX_TOKENS = 131_072
LLAMA_3_VOCABULARY = 128_256
MAX_LOGARITHM = 43.0  # e**43 still fits a 64-bit integer
NS_PER_S = 1e9

# Token counts of conversations at these cumulative probabilities, see README.md. Inputs and outputs are drawn
# independently: the conversations they describe show no correlation between the two (-0.07).
SHAREGPT_PROBABILITIES = (0.0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
SHAREGPT_INPUT_TOKENS = (1, 5, 7, 13, 40, 255, 784, 1042, 1411, 1998)
SHAREGPT_OUTPUT_TOKENS = (1, 24, 51, 133, 245, 360, 508, 627, 766, 769)

PAIR_COLUMNS = (("input_toks", "output_toks"), ("ContextTokens", "GeneratedTokens"))

EXAMPLES = """\
lengths:
  --lengths sharegpt               prompts and answers as long as those of ShareGPT conversations
  --lengths pairs:FILE             (input, output) pairs drawn with replacement from FILE: JSON Lines, or CSV
                                   named .csv, with the fields input_toks and output_toks; Azure LLM
                                   inference traces work as they are
  --input-toks D --output-toks D   each drawn from a distribution D of its own:
    1024                             always 1024 tokens
    uniform:LOW:HIGH                 whole numbers from LOW to HIGH, both included
    lognormal:MEDIAN:SIGMA           rounded and clipped to 1..131072 tokens
    lognormal:MEDIAN:SIGMA:LOW:HIGH  rounded and clipped to LOW..HIGH tokens

arrivals:
  poisson:RATE                     RATE requests a second on average, memoryless
  gamma:RATE:CV                    gaps with a coefficient of variation CV; above 1 comes in bursts
  constant:RATE                    evenly spaced, the first at 0
  bursts:COUNT:GAP                 COUNT requests at once, again every GAP seconds, the first at 0

examples:
  python dataset/generate.py --requests 100 --lengths sharegpt --arrivals poisson:10 --output chat.jsonl
  python dataset/generate.py --requests 10000 --input-toks 1024 --output-toks 128 --arrivals poisson:60 \\
      --output load.jsonl
  python dataset/generate.py --requests 500 --input-toks lognormal:512:1.2:16:8192 \\
      --output-toks uniform:1:256 --arrivals gamma:5:3 --seed 7 --output bursty.jsonl
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the workload that the command line describes; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    draw_lengths = _lengths_of(parser, arguments)
    length_rng, arrival_rng, id_rng = np.random.default_rng(arguments.seed).spawn(3)
    inputs, outputs = draw_lengths(length_rng, arguments.requests)
    arrivals_ns: Ints = arguments.arrivals(arrival_rng, arguments.requests)
    if (arrivals_ns[1:] < arrivals_ns[:-1]).any():  # 64-bit integers have wrapped
        parser.error("--arrivals: the last request would arrive after 2**63 ns, 292 years; raise the rate")
    lines = []
    for arrival_ns, input_toks, output_toks in zip(
        arrivals_ns.tolist(), inputs.tolist(), outputs.tolist(), strict=True
    ):
        record = {"input_toks": input_toks, "output_toks": output_toks, "arrival_time_ns": arrival_ns}
        if arguments.token_ids == "random":
            ids = id_rng.integers(0, arguments.vocab_size, input_toks + output_toks).tolist()
            record |= {"input_tok_ids": ids[:input_toks], "output_tok_ids": ids[input_toks:]}
        lines.append(json.dumps(record) + "\n")
    try:
        write_atomically(arguments.output, "".join(lines))
    except OSError as error:
        parser.error(f"--output: {arguments.output}: cannot be written: {error.strerror}")
    return 0


def write_atomically(path: Path, text: str) -> None:
    """Write ``path`` so that nobody ever sees half of it: to a temporary file beside it, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def quantile_table(tokens: Sequence[int]) -> Sampler:
    """Sample by the inverse of a cumulative distribution given as quantiles, log-linear between them."""
    logarithms = np.log(tokens)

    def draw(rng: np.random.Generator, count: int) -> Ints:
        return _whole(np.exp(np.interp(rng.random(count), SHAREGPT_PROBABILITIES, logarithms)))

    return draw


def token_counts(text: str) -> Sampler:
    """Parse a distribution of token counts: N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:LOW:HIGH]."""
    match text.split(":"):
        case [count]:
            tokens = _tokens(count)
            return lambda _, n: np.full(n, tokens, dtype=np.int64)
        case ["uniform", low, high]:
            lowest, highest = _range(low, high)
            return lambda rng, n: rng.integers(lowest, highest, n, endpoint=True)
        case ["lognormal", median, sigma, *limits] if len(limits) in {0, 2}:
            mu, spread = math.log(positive_number(median)), positive_number(sigma)
            lowest, highest = _range(*limits) if limits else (1, MAX_TOKENS)
            return lambda rng, n: _whole(
                np.exp(rng.normal(mu, spread, n).clip(max=MAX_LOGARITHM)), lowest, highest
            )
    raise wrong_value(text, "a number of tokens, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:LOW:HIGH]")


def arrival_times(text: str) -> Sampler:
    """Parse an arrival process; it draws sorted arrival times in nanoseconds."""
    match text.split(":"):
        case ["poisson", rate]:
            mean_gap_ns = NS_PER_S / positive_number(rate)
            return lambda rng, n: np.cumsum(_whole(rng.exponential(mean_gap_ns, n)))
        case ["gamma", rate, cv]:
            shape = positive_number(cv) ** -2
            scale_ns = NS_PER_S / positive_number(rate) / shape
            return lambda rng, n: np.cumsum(_whole(rng.gamma(shape, scale_ns, n)))
        case ["constant", rate]:
            gap_ns = NS_PER_S / positive_number(rate)
            return lambda _, n: _whole(np.arange(n) * gap_ns)
        case ["bursts", count, gap]:
            size, burst_gap_ns = whole_number(count), round(positive_number(gap) * NS_PER_S)
            return lambda _, n: np.arange(n) // size * burst_gap_ns
    raise wrong_value(text, "poisson:RATE, gamma:RATE:CV, constant:RATE or bursts:COUNT:GAP")


def both_lengths(text: str) -> LengthSampler:
    """Parse ``--lengths``: a source of input and output token counts together."""
    if text == "sharegpt":
        return _independent(quantile_table(SHAREGPT_INPUT_TOKENS), quantile_table(SHAREGPT_OUTPUT_TOKENS))
    kind, _, file = text.partition(":")
    if kind != "pairs" or not file:
        raise wrong_value(text, "sharegpt or pairs:FILE")
    pairs = read_pairs(Path(file))

    def draw(rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
        rows = rng.integers(0, len(pairs), count)
        return pairs[rows, 0], pairs[rows, 1]

    return draw


def read_pairs(path: Path) -> Ints:
    """Read (input, output) token counts from JSON Lines, or from CSV with a header; one row a pair."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                records = list(csv.DictReader(file))
            else:
                records = [json.loads(line) for line in file if not line.isspace()]
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise argparse.ArgumentTypeError(
            f"{path}: is neither CSV named .csv nor JSON Lines: {error}"
        ) from None
    if not records:
        raise argparse.ArgumentTypeError(f"{path}: has no pairs")
    return np.array([_pair(path, number, record) for number, record in enumerate(records, start=1)])


def _pair(path: Path, number: int, record: object) -> tuple[int, int]:
    """Take the two token counts out of a row."""
    for names in PAIR_COLUMNS:
        if isinstance(record, dict) and all(name in record for name in names):
            try:
                return _tokens(str(record[names[0]])), _tokens(str(record[names[1]]))
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"{path}: request {number}: {error}") from None
    wanted = " or ".join(" and ".join(names) for names in PAIR_COLUMNS)
    raise argparse.ArgumentTypeError(f"{path}: request {number}: has no {wanted}")


def _independent(inputs: Sampler, outputs: Sampler) -> LengthSampler:
    return lambda rng, count: (inputs(rng, count), outputs(rng, count))


def _lengths_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> LengthSampler:
    """Pick the one way in which the command line gives lengths."""
    separate = (arguments.input_toks, arguments.output_toks)
    both: LengthSampler | None = arguments.lengths
    if both is not None and separate == (None, None):
        return both
    if both is not None or None in separate:
        parser.error("give either --lengths, or both --input-toks and --output-toks")
    return _independent(*separate)


def _whole(values: npt.NDArray[np.floating[Any]], low: int = 0, high: int = 2**62) -> Ints:
    whole: Ints = np.rint(values).astype(np.int64)
    return whole.clip(low, high)


def _range(low: str, high: str) -> tuple[int, int]:
    lowest, highest = _tokens(low), _tokens(high)
    if lowest > highest:
        raise wrong_value(f"{low}:{high}", "LOW:HIGH with LOW at most HIGH")
    return lowest, highest


def _tokens(text: str) -> int:
    return whole_number(text, "a number of tokens, at least 1")


def whole_number(text: str, wanted: str = "a whole number of at least 1") -> int:
    """Parse a count from 1 to 2**31 - 1."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) < 2**31):
        raise wrong_value(text, wanted)
    return int(text)


def seed_number(text: str) -> int:
    """Parse a seed, a whole number of at least 0."""
    if not (text.isascii() and text.isdigit()):
        raise wrong_value(text, "a whole number of at least 0")
    return int(text)


def positive_number(text: str) -> float:
    """Parse a number from 0.001 to 1000000."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-3 <= value <= 1e6:
        raise wrong_value(text, "a number from 0.001 to 1000000")
    return value


def wrong_value(text: str, wanted: str) -> argparse.ArgumentTypeError:
    """The error of a value that is not what was ``wanted``."""
    return argparse.ArgumentTypeError(f"{text!r}: must be {wanted}")


class Parser(argparse.ArgumentParser):
    """Argument parser that says what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        self.exit(2, f"error: {message} (--help explains)\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Make a synthetic workload: a JSON Lines file with one request a line.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="file to write, usually named .jsonl")
    add("--requests", type=whole_number, required=True, metavar="N", help="number of requests")
    add("--arrivals", type=arrival_times, required=True, metavar="A", help="arrival process, see below")
    add("--lengths", type=both_lengths, metavar="L", help="input and output lengths, see below")
    add("--input-toks", type=token_counts, metavar="D", help="input lengths, see below")
    add("--output-toks", type=token_counts, metavar="D", help="output lengths, see below")
    add("--seed", type=seed_number, default=0, metavar="S", help="seed of all random numbers (default: 0)")
    add("--token-ids", choices=("none", "random"), default="none", help="token ids to write (default: none)")
    add(
        "--vocab-size",
        type=whole_number,
        default=LLAMA_3_VOCABULARY,
        metavar="V",
        help=f"random token ids are below V (default: {LLAMA_3_VOCABULARY}, Llama 3)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

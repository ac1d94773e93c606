"""Make sessions, the workload of agents: turns whose prompts hold all before them, with tool time in between.

A turn's prompt is the prompt and the answer of the turn before, and the tokens that a tool (or a user) adds. A seed
fixes every byte. Turn counts, lengths, times and token ids have a random stream each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.generate import (
    LLAMA_3_VOCABULARY,
    Parser,
    arrival_times,
    seed_number,
    token_counts,
    whole_number,
    write_atomically,
)

NS_PER_MS = 1_000_000
EPILOG = """\
Distributions are those of generate.py (N, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA[:LOW:HIGH]), and so are arrivals.

example:
  python -m dataset.generate_sessions --sessions 40 --turns uniform:3:10 --first-toks lognormal:2000:0.5:500:6000 \\
      --output-toks lognormal:120:0.7:10:600 --tool-toks lognormal:300:1:20:3000 \\
      --tool-ms lognormal:800:1:50:20000 --arrivals poisson:2 --output agents.jsonl
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sessions that the command line describes; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.shared_toks and arguments.token_ids == "none":
        parser.error("--shared-toks: needs --token-ids random, without which sessions share nothing")
    arrival_rng, turn_rng, length_rng, time_rng, id_rng = np.random.default_rng(arguments.seed).spawn(5)
    ids = (
        TokenIds(id_rng, arguments.vocab_size, arguments.shared_toks)
        if arguments.token_ids == "random"
        else None
    )
    arrivals_ns = arguments.arrivals(arrival_rng, arguments.sessions).tolist()
    counts = arguments.turns(turn_rng, arguments.sessions).tolist()
    lines = []
    for number, (arrival_ns, count) in enumerate(zip(arrivals_ns, counts, strict=True)):
        turns = session_turns(arguments, count, length_rng, time_rng)
        if ids is not None:
            ids.fill(turns)
        record = {"session_id": f"agent-{number}", "arrival_time_ns": arrival_ns, "sub_requests": turns}
        lines.append(json.dumps(record) + "\n")
    try:
        write_atomically(arguments.output, "".join(lines))
    except OSError as error:
        parser.error(f"--output: {arguments.output}: cannot be written: {error.strerror}")
    return 0


def session_turns(
    arguments: argparse.Namespace, count: int, length_rng: np.random.Generator, time_rng: np.random.Generator
) -> list[dict[str, Any]]:
    """The turns of a session, without token ids; a tool runs after all but the last."""
    first = int(arguments.first_toks(length_rng, 1)[0])
    outputs = arguments.output_toks(length_rng, count).tolist()
    added = arguments.tool_toks(length_rng, count - 1).tolist()
    waits_ms = arguments.tool_ms(time_rng, count - 1).tolist()
    turns: list[dict[str, Any]] = []
    prompt = first
    for turn, output in enumerate(outputs):
        turns.append({"input_toks": prompt, "output_toks": output})
        if turn < count - 1:
            turns[-1]["tool_duration_ns"] = waits_ms[turn] * NS_PER_MS
            prompt += output + added[turn]
    return turns


class TokenIds:
    """Random token ids in which every prompt begins with the session's history, and sessions with shared tokens."""

    def __init__(self, rng: np.random.Generator, vocab_size: int, shared: int) -> None:
        self._rng = rng
        self._vocab_size = vocab_size
        self._shared = self._new(shared)

    def fill(self, turns: list[dict[str, Any]]) -> None:
        """Add token ids to the turns of one session."""
        history = self._shared
        for turn in turns:
            prompt = history[: turn["input_toks"]]
            prompt = prompt + self._new(turn["input_toks"] - len(prompt))
            answer = self._new(turn["output_toks"])
            turn |= {"input_tok_ids": prompt, "output_tok_ids": answer}
            history = prompt + answer

    def _new(self, count: int) -> list[int]:
        ids: list[int] = self._rng.integers(0, self._vocab_size, count).tolist()
        return ids


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Make a workload of sessions: a JSON Lines file with one session a line.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    distributions = {
        "--turns": "requests of a session",
        "--first-toks": "prompt of the first turn",
        "--output-toks": "answer of a turn",
        "--tool-toks": "tokens that a turn adds to the history before it",
        "--tool-ms": "milliseconds from the end of a turn to the next",
    }
    add("--output", type=Path, required=True, metavar="FILE", help="file to write, usually named .jsonl")
    add("--sessions", type=whole_number, required=True, metavar="N", help="number of sessions")
    add("--arrivals", type=arrival_times, required=True, metavar="A", help="arrival process of sessions")
    for flag, text in distributions.items():
        add(flag, type=token_counts, required=True, metavar="D", help=text)
    add("--seed", type=seed_number, default=0, metavar="S", help="seed of all random numbers (default: 0)")
    add("--token-ids", choices=("none", "random"), default="none", help="token ids to write (default: none)")
    add(
        "--shared-toks",
        type=seed_number,
        default=0,
        metavar="N",
        help="tokens that all sessions begin with, such as a system prompt (needs --token-ids random)",
    )
    add("--vocab-size", type=whole_number, default=LLAMA_3_VOCABULARY, metavar="V", help="ids are below V")
    return parser


if __name__ == "__main__":
    sys.exit(main())

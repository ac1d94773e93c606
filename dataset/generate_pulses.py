"""Pulses of chat requests, many of which continue an earlier conversation: ``python -m dataset.generate_pulses FILE``.

The load of LLMServingSim 2.0's ``sharegpt_pulse_req50_n6_delay15_pc``, with other requests. Requests of a pulse
arrive as a Poisson process; a pause without arrivals follows. A request that continues a conversation has all that was
said in it as its prompt, and a new question; it comes a pulse or more after the request before it. One seed fixes
every byte.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.generate import (
    SHAREGPT_INPUT_TOKENS,
    SHAREGPT_OUTPUT_TOKENS,
    positive_number,
    quantile_table,
    seed_number,
    whole_number,
    wrong_value,
)

_NS_PER_S = 1_000_000_000
_IDS = 10  # few ids, so that the file is short; a block of 16 is not equal to another by chance
_QUESTION_TOKS = (5, 100)
_LONGEST_PROMPT_TOKS = 2000
_FIRST_TOKS, _ANSWER_TOKS = quantile_table(SHAREGPT_INPUT_TOKENS), quantile_table(SHAREGPT_OUTPUT_TOKENS)


@dataclass(frozen=True, slots=True)
class Pulses:
    """How the load looks; ``continuing`` is the chance of a request to continue a conversation of an earlier pulse."""

    pulses: int = 6
    requests: int = 50
    rate_per_s: float = 10.0
    pause_s: float = 15.0
    continuing: float = 0.3
    seed: int = 4


def pulses(load: Pulses) -> list[dict[str, object]]:
    """Requests in order of arrival, each what a line of a workload file says."""
    random = np.random.default_rng(load.seed)
    conversations: list[list[int]] = []  # of each, the token ids of all that was said
    requests: list[dict[str, object]] = []
    arrival_ns = 0
    for _ in range(load.pulses):
        waiting = [said for said in conversations if len(said) <= _LONGEST_PROMPT_TOKS - _QUESTION_TOKS[1]]
        for _ in range(load.requests):
            arrival_ns += round(random.exponential(_NS_PER_S / load.rate_per_s))
            if waiting and random.random() < load.continuing:
                said = waiting.pop(int(random.integers(len(waiting))))
                said += _ids(random, int(random.integers(*_QUESTION_TOKS, endpoint=True)))
            else:
                said = _ids(random, int(_FIRST_TOKS(random, 1)[0]))
                conversations.append(said)
            answer = _ids(random, int(_ANSWER_TOKS(random, 1)[0]))
            requests.append(
                {
                    "input_toks": len(said),
                    "output_toks": len(answer),
                    "arrival_time_ns": arrival_ns,
                    "input_tok_ids": list(said),
                    "output_tok_ids": answer,
                }
            )
            said += answer
        arrival_ns += round(load.pause_s * _NS_PER_S)
    return requests


def _ids(random: np.random.Generator, count: int) -> list[int]:
    ids: list[int] = random.integers(0, _IDS, count).tolist()
    return ids


def _share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise wrong_value(text, "a number from 0 to 1")
    return value


def main(argv: list[str] | None = None) -> None:
    """Write a workload file."""
    defaults = Pulses()
    parser = argparse.ArgumentParser(description="Make pulses of requests that continue conversations.")
    parser.add_argument("file", type=Path)
    add = parser.add_argument
    add("--pulses", type=whole_number, default=defaults.pulses)
    add("--requests", type=whole_number, default=defaults.requests, help="requests of a pulse")
    add("--rate", type=positive_number, default=defaults.rate_per_s, help="requests a second in a pulse")
    add("--pause", type=positive_number, default=defaults.pause_s, help="seconds from a pulse to the next")
    add("--continuing", type=_share, default=defaults.continuing, help="chance to continue, 0 to 1")
    add("--seed", type=seed_number, default=defaults.seed)
    args = parser.parse_args(argv)
    load = Pulses(args.pulses, args.requests, args.rate, args.pause, args.continuing, args.seed)
    lines = [json.dumps(request, separators=(",", ":")) for request in pulses(load)]
    args.file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

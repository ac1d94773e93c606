"""Conversations of several turns, for prefix caching: ``python -m dataset.conversations FILE``.

A turn's prompt is all that has been said before, and something new; it comes a pause after the turn before it, whether
or not that one has been answered. Lengths, pauses and token ids are uniform; one seed fixes every byte.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

_NS_PER_S = 1_000_000_000
_IDS = 100  # few ids, so that the file is short; what matters is that contents differ


def conversations(count: int, turns: int, seed: int) -> list[dict[str, object]]:
    """Requests of ``count`` conversations of ``turns`` turns each, in order of arrival.

    A conversation begins every half second on average; a turn adds 100 to 300 tokens, is answered by 50 to 150, and the
    next one follows 4 to 10 s later.
    """
    random = np.random.default_rng(seed)
    found: list[tuple[int, dict[str, object]]] = []
    for start_ns in np.sort(random.integers(0, count * _NS_PER_S // 2, count)).tolist():
        said: list[int] = []
        arrival_ns = start_ns
        for _ in range(turns):
            said += random.integers(0, _IDS, random.integers(100, 301)).tolist()
            answer = random.integers(0, _IDS, random.integers(50, 151)).tolist()
            request: dict[str, object] = {
                "input_toks": len(said),
                "output_toks": len(answer),
                "arrival_time_ns": arrival_ns,
                "input_tok_ids": list(said),
                "output_tok_ids": answer,
            }
            found.append((arrival_ns, request))
            said += answer
            arrival_ns += int(random.integers(4 * _NS_PER_S, 10 * _NS_PER_S))
    return [request for _, request in sorted(found, key=lambda one: one[0])]


def main(argv: list[str] | None = None) -> None:
    """Write a workload file."""
    parser = argparse.ArgumentParser(description="Make conversations of several turns.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--conversations", type=int, default=10)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    lines = [
        json.dumps(request, separators=(",", ":"))
        for request in conversations(args.conversations, args.turns, args.seed)
    ]
    args.file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

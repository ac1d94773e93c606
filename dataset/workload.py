"""What generators and converters make: requests, and the line of a workload file that each becomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

SHORT = "short"
LONG = "long"


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """One request: when it arrives (ns), how long it is (tokens), and its class.

    ``blocks`` has the ids of the blocks that the prompt is made of, where a trace tells them: prompts that
    begin with the same ids begin with the same tokens.
    """

    arrival_ns: int
    input_toks: int
    output_toks: int
    request_class: str | None = None
    blocks: tuple[int, ...] | None = None


def workload_line(request: WorkloadRequest, input_tok_ids: Sequence[int] | None = None) -> str:
    """The line of ``request``, with its line end; ``class`` and token ids only where there are any."""
    record: dict[str, object] = {
        "input_toks": request.input_toks,
        "output_toks": request.output_toks,
        "arrival_time_ns": request.arrival_ns,
    }
    if request.request_class is not None:
        record["class"] = request.request_class
    if input_tok_ids is not None:
        record["input_tok_ids"] = list(input_tok_ids)
    return json.dumps(record) + "\n"

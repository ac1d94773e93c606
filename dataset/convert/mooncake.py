"""Mooncake traces: JSON Lines of ``timestamp`` (ms), ``input_length``, ``output_length`` and ``hash_ids``.

A hash id stands for 512 tokens of a prompt and all that is before them, so prompts that begin with the same
ids share that prefix; the last block may be shorter. Described by Qin et al., Mooncake, FAST 2025.
"""

from __future__ import annotations

from pathlib import Path

from dataset.convert.base import Trace, TraceFormat, time_ns, tokens, trace_of
from dataset.workload import WorkloadRequest
from inference_serving.validation.readers.base import Fields, records

BLOCK_TOKS = 512
_MILLISECOND_NS = 1e6


def _read(file: Path) -> Trace:
    return trace_of(file, [_request(Fields(file, where, record)) for where, record in records(file)])


def _request(line: Fields) -> WorkloadRequest:
    input_toks = tokens(line, "input_length")
    hashes = line.array("hash_ids")
    blocks = -(-input_toks // BLOCK_TOKS)
    if len(hashes) != blocks:
        raise line.error(
            "hash_ids",
            f"has {len(hashes)} ids, but {input_toks} tokens are {blocks} blocks of {BLOCK_TOKS}",
        )
    for position, one in enumerate(hashes):
        if type(one) is not int or one < 0:
            raise line.error(f"hash_ids[{position}]", f"{one!r}: must be an integer of at least 0")
    return WorkloadRequest(
        time_ns(line, "timestamp", _MILLISECOND_NS),
        input_toks,
        tokens(line, "output_length"),
        blocks=tuple(hashes),
    )


FORMAT = TraceFormat(
    "mooncake",
    "Mooncake traces: JSON Lines with timestamp, input_length, output_length, hash_ids",
    _read,
    BLOCK_TOKS,
)

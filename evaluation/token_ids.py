"""Token ids for a workload that has none, so that prefix caching finds something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from inference_serving.files import write_whole

_SEED = 5
_OPENINGS, _OPENING_TOKS = 4, 32
_VOCABULARY = 128_256


def workload_with_ids(workload: Path, out: Path) -> Path:
    """Write ``workload`` to ``out`` with token ids, the same bytes each time; returns ``out``.

    Prompts longer than 32 tokens begin with one of 4 openings of 32 tokens, as applications' system prompts
    do; all other tokens are drawn at random, so nothing else is shared.
    """
    rng = np.random.default_rng(_SEED)
    openings = rng.integers(0, _VOCABULARY, (_OPENINGS, _OPENING_TOKS))
    lines = []
    for line in workload.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        ids = rng.integers(0, _VOCABULARY, record["input_toks"] + record["output_toks"])
        opening = openings[rng.integers(_OPENINGS)]
        if record["input_toks"] > _OPENING_TOKS:
            ids[:_OPENING_TOKS] = opening
        record["input_tok_ids"] = ids[: record["input_toks"]].tolist()
        record["output_tok_ids"] = ids[record["input_toks"] :].tolist()
        lines.append(json.dumps(record) + "\n")
    write_whole(out, lines)
    return out

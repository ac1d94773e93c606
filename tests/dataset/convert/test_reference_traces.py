"""The real traces, where they are: counts, totals, times and prefix hits against a computation of our own.

REFERENCE_DIR names the folder (default: shared/reference beside the repository).
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import pytest

from dataset.convert.__main__ import main
from inference_serving.dataset import read_dataset
from inference_serving.request_spec import RequestSpec

REFERENCE = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[4] / "shared" / "reference")
TRACES = REFERENCE / "traces"

pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason="no reference data here")


def converted(tmp_path: Path, name: str, file: Path, *options: str) -> list[RequestSpec]:
    out = tmp_path / "out.jsonl"
    assert main([name, str(file), "-o", str(out), *options]) == 0
    return read_dataset(out, keep_token_ids=True)


@pytest.mark.parametrize(
    ("file", "count", "prompt_toks", "answer_toks"),
    [("az23_conv.csv", 19_366, 22_361_870, 4_088_665), ("az23_code.csv", 8_819, 18_059_974, 245_896)],
)
def test_azure(tmp_path, file, count, prompt_toks, answer_toks):
    requests = converted(tmp_path, "azure", TRACES / file)
    _, *rows = [line.split(",") for line in (TRACES / file).read_text().split()]
    times = [row for row in rows if len(row) == 3]  # date and time have a space between them
    assert len(requests) == len(times) == count
    assert sum(one.input_tokens for one in requests) == sum(int(row[1]) for row in times) == prompt_toks
    assert sum(one.output_tokens for one in requests) == sum(int(row[2]) for row in times) == answer_toks
    seconds = [
        sum(float(part) * unit for part, unit in zip(row[0].split(":"), (3600, 60, 1), strict=True))
        for row in times
    ]
    assert [one.arrival_ns / 1e9 for one in requests] == pytest.approx(
        [second - seconds[0] for second in seconds], abs=1e-8
    )


@pytest.mark.parametrize(
    ("file", "count", "prompt_toks"),
    [("mc_conv.jsonl", 12_031, 144_793_823), ("mc_syn.jsonl", 3_993, 61_194_628)],
)
def test_mooncake(tmp_path, file, count, prompt_toks):
    requests = converted(tmp_path, "mooncake", TRACES / file)
    records = [json.loads(line) for line in (TRACES / file).read_text().splitlines()]
    assert len(requests) == count
    assert sum(one.input_tokens for one in requests) == prompt_toks
    assert [(one.arrival_ns, one.input_tokens, one.output_tokens) for one in requests] == [
        (one["timestamp"] * 1_000_000, one["input_length"], one["output_length"]) for one in records
    ]


def cached_blocks(prompts: Iterable[Sequence[Hashable]]) -> list[int]:
    """Leading blocks of each prompt that an earlier one had too, as a prefix cache without limits finds them."""
    seen: set[tuple[Hashable, ...]] = set()
    hits = []
    for prompt in prompts:
        parent: tuple[Hashable, ...] = ()
        chain = [parent := (hash(parent), block) for block in prompt]
        hits.append(next((i for i, one in enumerate(chain) if one not in seen), len(chain)))
        seen.update(chain)
    return hits


@pytest.mark.parametrize(("file", "kv_block_toks"), [("mc_conv.jsonl", 16), ("mc_syn.jsonl", 64)])
def test_token_ids_give_the_prefix_hits_that_the_hashes_say(tmp_path, file, kv_block_toks):
    requests = converted(tmp_path, "mooncake", TRACES / file, "--num-req", "80", "--token-ids")
    records = [json.loads(line) for line in (TRACES / file).read_text().splitlines()[:80]]
    ids = [one.input_token_ids or () for one in requests]
    full_blocks = [
        [one[at : at + kv_block_toks] for at in range(0, len(one) - kv_block_toks + 1, kv_block_toks)]
        for one in ids
    ]
    by_hash = [
        min(hits * 512, record["input_length"]) // kv_block_toks
        for hits, record in zip(cached_blocks(record["hash_ids"] for record in records), records, strict=True)
    ]
    assert cached_blocks(full_blocks) == by_hash
    assert sum(by_hash) > 0


def test_a_published_bench(tmp_path):
    folder = REFERENCE / "real_systems" / "rtxpro6000_llama31_8b"
    requests = converted(tmp_path, "vllm", folder)
    records = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert len(requests) == len(records) == 300
    assert sum(one.input_tokens for one in requests) == sum(one["input_toks"] for one in records)
    first = min(one["arrival_time"] for one in records)
    last = max(one["arrival_time"] for one in records)
    assert requests[-1].arrival_ns / 1e9 == pytest.approx(last - first, abs=1e-6)

"""Decision replay: feed a recorded vLLM run to our scheduler and compare every batch.

``python -m inference_serving.replay RUN.iters.jsonl.gz RUN.reqs.jsonl.gz`` replays the arrivals and the
iteration times of a recorded run and prints ``equal N / N`` when all batches (requests, token counts,
tokens computed before) are the same as the real engine's. A run under a prefill policy is replayed with the
same policy, which sees the same times: those of arrivals, of scheduling, and of the model's outputs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError
from inference_serving.hol_scheduler import ActivationBlocks, HolScheduler
from inference_serving.kv_cache import KvCache
from inference_serving.latency_costs import LatencyCosts
from inference_serving.policies import make_prefill_policy, policy_names
from inference_serving.policies.options import parse_pairs
from inference_serving.policies.prefill import CostModel
from inference_serving.policies.registry import check_prefill_policy
from inference_serving.request import Batch, Request
from inference_serving.scheduler import Scheduler
from inference_serving.settings import SchedulerSettings

_UNLIMITED_BLOCKS = 1 << 40
_NO_ACTIVATIONS = ActivationBlocks(bytes_per_token=0, block_bytes=1)
"""A real engine runs whole iterations, so that nothing is paused inside of a chunk."""
_RECORDED_MAX_NUM_SEQS = 32
_BLOCK_SIZE = 16

Item = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class RecordedIteration:
    """One iteration: when it was decided, when its outputs were there, and what ran."""

    start_ns: int
    end_ns: int
    items: list[Item]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded run: requests in order of arrival, and iterations."""

    meta: dict[str, Any]
    arrivals: list[dict[str, Any]]
    iterations: list[RecordedIteration]
    output_tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """How many iterations were formed alike, and the first that was not."""

    equal: int
    total: int
    first_difference: str | None


def read_recording(iters_file: Path, reqs_file: Path) -> Recording:
    """Read the two files of a recorded run; raises InputError naming file and line.

    Output lengths come from the iterations (the last token computed plus one), so that warm-up requests,
    which the request file leaves out, are replayed too; the request file gives the engine's settings.
    """
    meta = next(_records(reqs_file), {}).get("meta")
    if not isinstance(meta, dict):
        raise InputError(reqs_file, "line 1: meta", "this field is required")
    recording = Recording(meta, [], [], {})
    for number, record in enumerate(_records(iters_file), start=1):
        try:
            _take(recording, record)
        except KeyError as error:
            raise InputError(
                iters_file, f"line {number}: {error.args[0]}", "this field is required"
            ) from None
        except (TypeError, ValueError):
            raise InputError(iters_file, f"line {number}", "is not a recorded event") from None
    if not recording.iterations:
        raise InputError(iters_file, "", "has no iterations with items")
    return recording


def _take(recording: Recording, record: dict[str, Any]) -> None:
    """Add one event; raises KeyError, TypeError or ValueError if it is not as recorded."""
    outputs = recording.output_tokens
    if record.get("ev") == "add":
        recording.arrivals.append(record | {"t": float(record["t"]), "p": int(record["p"])})
        outputs.setdefault(record["id"], 1)
    elif record.get("ev") == "it" and record["items"]:
        items = [(str(name), int(tokens), int(before)) for name, tokens, before, _ in record["items"]]
        start_s = float(record["t0"])
        end_s = float(record.get("t2", start_s))
        recording.iterations.append(RecordedIteration(_ns(start_s), _ns(end_s), items))
        for (name, tokens, before), (_, _, _, prompt) in zip(items, record["items"], strict=True):
            outputs[name] = max(outputs.get(name, 1), before + tokens + 1 - int(prompt))


def replay(
    recording: Recording, settings: SchedulerSettings, kv_blocks: int, costs: CostModel | None = None
) -> ReplayResult:
    """Form each iteration's batch with our scheduler and compare it with the recorded one.

    A prefill policy predicts with ``costs``, which must then be given.
    """
    scheduler = _scheduler(settings, KvCache(kv_blocks, settings.block_size), costs)
    pending = iter(sorted(recording.arrivals, key=lambda record: record["t"]))
    upcoming = next(pending, None)
    names: dict[int, str] = {}
    equal, first_difference = 0, None
    for number, iteration in enumerate(recording.iterations):
        while upcoming is not None and _ns(upcoming["t"]) <= iteration.start_ns:
            request = _request(len(names), upcoming, recording.output_tokens[upcoming["id"]])
            names[request.request_id] = upcoming["id"]
            scheduler.enqueue(request)
            upcoming = next(pending, None)
        batch = scheduler.schedule(iteration.start_ns)
        formed, expected = _items(batch, scheduler, names), iteration.items
        if sorted(formed) == sorted(expected):
            equal += 1
        elif first_difference is None:
            ours, theirs = sorted(set(formed) - set(expected)), sorted(set(expected) - set(formed))
            first_difference = f"iteration {number}: only ours {ours[:6]}, only recorded {theirs[:6]}"
        if batch is not None:
            scheduler.complete(iteration.end_ns)
    return ReplayResult(equal, len(recording.iterations), first_difference)


def _scheduler(settings: SchedulerSettings, kv_cache: KvCache, costs: CostModel | None) -> Scheduler:
    if settings.scheduling_policy in policy_names():
        return Scheduler(settings, kv_cache)
    assert costs is not None
    args = dict(settings.policy_args)
    policy = make_prefill_policy(
        settings.scheduling_policy, args, costs, settings.longest_chunk, most_groups=1
    )
    return HolScheduler(settings, kv_cache, policy, activations=_NO_ACTIVATIONS)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _request(request_id: int, record: dict[str, Any], output_tokens: int) -> Request:
    return Request(
        request_id=request_id,
        arrival_ns=_ns(record["t"]),
        prompt_tokens=record["p"],
        output_tokens=output_tokens,
        priority=record.get("prio", 0),
    )


def _items(batch: Batch | None, scheduler: Scheduler, names: dict[int, str]) -> list[Item]:
    if batch is None:
        return []
    rows = zip(scheduler.running, batch.grants.tolist(), batch.context.tolist(), strict=True)
    return [(names[request.request_id], tokens, before) for request, tokens, before in rows if tokens]


def _records(file: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _object(file, number, line)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None


def _object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(file, f"line {number}", f"not valid JSON: {error.msg}") from None
    if not isinstance(record, dict):
        raise InputError(file, f"line {number}", f"must be a JSON object, not {type(record).__name__}")
    return record


def _settings(recording: Recording, args: argparse.Namespace) -> SchedulerSettings:
    meta = recording.meta
    policy = args.scheduling_policy or str(meta.get("policy", "fcfs"))
    if args.max_num_batched_tokens is None and "mnbt" not in meta:
        raise InputError(args.reqs, "line 1: meta.mnbt", "this field is required")
    budget, block_size = args.max_num_batched_tokens, args.block_size
    return SchedulerSettings(
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=int(meta["mnbt"]) if budget is None else budget,
        block_size=int(meta.get("block_size", _BLOCK_SIZE)) if block_size is None else block_size,
        long_prefill_token_threshold=int(meta.get("lpt", 0)),
        scheduling_policy=policy,
        policy_args=_policy_args(recording, args, policy),
    )


def _policy_args(recording: Recording, args: argparse.Namespace, policy: str) -> tuple[tuple[str, str], ...]:
    """Options of a prefill policy; raises InputError for a policy or an option that there is not."""
    if policy in policy_names():
        return ()
    recorded = str(recording.meta.get("policy_args", "")) if policy == recording.meta.get("policy") else ""
    text = recorded if args.policy_args is None else args.policy_args
    try:
        pairs = parse_pairs(text)
        check_prefill_policy(policy, pairs)
    except ValueError as error:
        raise InputError(args.reqs, "line 1: meta.policy", str(error)) from None
    return tuple(pairs.items())


def _costs(recording: Recording, args: argparse.Namespace) -> CostModel:
    """What the real engine's policy predicted with: its model, and its card as it was described then."""
    meta = recording.meta
    for field in ("hardware", "model"):
        if field not in meta:
            raise InputError(args.reqs, f"line 1: meta.{field}", "this field is required by a prefill policy")
    return LatencyCosts.of(meta.get("card", meta["hardware"]), meta["model"], args.reqs)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0 when all batches are equal, 1 when some differ, 2 on bad input."""
    args = _parser().parse_args(argv)
    try:
        recording = read_recording(args.iters, args.reqs)
        settings = _settings(recording, args)
        costs = None if settings.scheduling_policy in policy_names() else _costs(recording, args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = replay(recording, settings, args.kv_blocks, costs)
    if result.first_difference:
        print(f"first difference at {result.first_difference}")
    print(f"equal {result.equal} / {result.total}")
    return 0 if result.equal == result.total else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference_serving.replay", description=__doc__)
    parser.add_argument("iters", type=Path, help="RUN.iters.jsonl[.gz]: arrivals and iterations")
    parser.add_argument("reqs", type=Path, help="RUN.reqs.jsonl[.gz]: settings of the run, line 1")
    parser.add_argument(
        "--max-num-seqs", type=int, default=_RECORDED_MAX_NUM_SEQS, help="default %(default)s"
    )
    parser.add_argument("--max-num-batched-tokens", type=int, help="default: as recorded")
    parser.add_argument(
        "--block-size", type=int, help=f"tokens per KV block, default: as recorded, or {_BLOCK_SIZE}"
    )
    parser.add_argument("--kv-blocks", type=int, default=_UNLIMITED_BLOCKS, help="default: enough for all")
    parser.add_argument("--scheduling-policy", metavar="NAME", help="default: as recorded")
    parser.add_argument(
        "--policy-args", metavar="K=V,...", help="default: as recorded, if the policy is the recorded one"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

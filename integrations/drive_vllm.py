"""Serve one bimodal workload with a real vLLM on a CPU and record it: ``NAME.reqs`` and ``NAME.iters``.

``python -m integrations.drive_vllm --model-config CONFIG.json --policy NAME --output FOLDER/NAME``, inside an
environment with vLLM 0.32 (``run_vllm_cpu.sh`` makes one). ``fcfs`` and ``priority`` (by prompt length) are
the engine's own policies, any other name is a prefill policy of this project. The model gets random weights.
A run that is there already is not repeated; nothing is left behind by one that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from astra_sim.input_error import InputError, read_json_object
from inference_serving.policies.options import make_options, parse_pairs
from inference_serving.policies.registry import find_prefill_policy
from integrations.bimodal import Arrival, bimodal
from llm_profile.hardware import find_hardware, load_hardware

ENGINE_POLICIES = ("fcfs", "priority")
WARM_UP_TOKENS = (64, 3000, 128)
MAX_NUM_SEQS = 32
START_AFTER_S = 0.5
MAX_MODEL_LEN = 8192


def engine_args(args: argparse.Namespace, model: Path) -> AsyncEngineArgs:
    """One sequence of batches in one process, as in the recorded runs."""
    own = args.policy not in ENGINE_POLICIES
    return AsyncEngineArgs(
        model=str(model),
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=args.max_num_batched_tokens,
        enable_prefix_caching=False,
        async_scheduling=False,
        scheduling_policy="fcfs" if own else args.policy,
        scheduler_cls=f"integrations.vllm_scheduler.{'PolicyScheduler' if own else 'RecordingScheduler'}",
        disable_log_stats=True,
    )


class Driver:
    """Sends requests when they are due and notes when their tokens come; ``vocabulary`` is the model's."""

    def __init__(self, engine: AsyncLLM, args: argparse.Namespace, vocabulary: int) -> None:
        self._engine = engine
        self._args = args
        self._vocabulary = vocabulary
        self.base_s = 0.0

    async def serve(self, number: int, arrival: Arrival) -> dict[str, Any]:
        """Wait until a request is due, send it, and return its record."""
        due_s = self.base_s + arrival.at_s
        await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
        sent_s = time.monotonic()
        times, first_token = await self._tokens(f"r{number}", arrival)
        return {
            "i": number,
            "p": arrival.prompt_tokens,
            "o": arrival.output_tokens,
            "long": arrival.long,
            "arr": round(arrival.at_s, 6),
            "late": round(sent_s - due_s, 6),
            "ttft": round(times[0] - sent_s, 5),
            "e2e": round(times[-1] - sent_s, 5),
            "tok0": first_token,
            "ts": [round(at_s - self.base_s, 5) for at_s in times],
        }

    async def warm_up(self) -> None:
        """Requests that are in the iterations, but not in the results."""
        for number, tokens in enumerate(WARM_UP_TOKENS):
            await self._tokens(f"warm{number}", Arrival(0.0, tokens, 4, False))

    async def _tokens(self, name: str, arrival: Arrival) -> tuple[list[float], int]:
        """Times of a request's tokens, and its first one; the prompt depends on nothing but name and length."""
        rng = np.random.default_rng([arrival.prompt_tokens, *name.encode()])
        prompt = rng.integers(3, self._vocabulary, arrival.prompt_tokens).tolist()
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=arrival.output_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        priority = arrival.prompt_tokens if self._args.policy == "priority" else 0
        times: list[float] = []
        first_token = -1
        async for output in self._engine.generate(
            {"prompt_token_ids": prompt}, sampling, name, priority=priority
        ):
            tokens = output.outputs[0].token_ids
            first_token = first_token if times else tokens[0]
            times += [time.monotonic()] * len(tokens)
        return times, first_token


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the requests' file says of a run; raises InputError for a policy or a card that there is not."""
    return {
        "mnbt": args.max_num_batched_tokens,
        "rate": args.rate,
        "n": args.requests,
        "seed": args.seed,
        "long_share": args.long_share,
        "policy": args.policy,
        "policy_args": resolved_args(args.policy, args.policy_args),
        "hardware": args.hardware,
        "card": described(args.hardware),
        "model": read_json_object(args.model_config),
    }


async def run(args: argparse.Namespace, model: Path, meta: dict[str, Any]) -> str:
    """Serve the whole workload; returns the text of the requests' file."""
    arrivals = bimodal(args.seed, args.requests, args.rate, args.long_share)
    begin_s = time.monotonic()
    engine = AsyncLLM.from_engine_args(engine_args(args, model))
    try:
        driver = Driver(engine, args, meta["model"]["vocab_size"])
        await driver.warm_up()
        ready_s = time.monotonic()
        driver.base_s = ready_s + START_AFTER_S
        records = await asyncio.gather(*(driver.serve(*item) for item in enumerate(arrivals)))
        cache = engine.vllm_config.cache_config
        meta = meta | {"block_size": cache.block_size, "num_gpu_blocks": cache.num_gpu_blocks}
    finally:
        engine.shutdown()
    first = {"meta": meta, "base": round(driver.base_s, 5), "init": round(ready_s - begin_s, 2)}
    first["wall"] = round(time.monotonic() - driver.base_s, 2)
    return "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in [first, *records])


def described(hardware: str) -> dict[str, Any]:
    """The description of a card as it is now, so that the policy's predictions can be made again."""
    file = find_hardware(hardware)
    if file is None:
        raise InputError("", "--hardware", f"no description {hardware}.yaml")
    return load_hardware(file).model_dump(exclude={"fit"}, exclude_defaults=True)


def resolved_args(policy: str, text: str) -> str:
    """All options of a prefill policy as they are now, with whole iterations for layer groups; '' for the engine's.

    Raises InputError for a policy or an option that there is not.
    """
    if policy in ENGINE_POLICIES:
        return ""
    try:
        options = make_options(find_prefill_policy(policy).options_type, parse_pairs(text))
    except ValueError as error:
        raise InputError("", "--policy", str(error)) from None
    values = asdict(options) | {"groups": 1}
    return ",".join(f"{name}={str(value).lower()}" for name, value in values.items())


def write_compressed(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_bytes(gzip.compress(content, mtime=0))
    temporary.replace(file)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m integrations.drive_vllm", description=__doc__)
    parser.add_argument("--model-config", type=Path, required=True, help="config.json of the model")
    parser.add_argument("--output", type=Path, required=True, help="files are OUTPUT.reqs.jsonl.gz, .iters.")
    parser.add_argument("--policy", default="fcfs")
    parser.add_argument("--policy-args", default="", help="options of a prefill policy")
    parser.add_argument("--hardware", default="CPU", help="card whose description predicts prefill times")
    parser.add_argument("--max-num-batched-tokens", type=int, default=512)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1.4, help="arrivals a second")
    parser.add_argument("--long-share", type=float, default=0.11)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run once, and write both files when all has gone well."""
    args = parse(argv)
    requests_file, iterations_file = (
        args.output.with_name(f"{args.output.name}.{kind}.jsonl.gz") for kind in ("reqs", "iters")
    )
    if requests_file.exists() and iterations_file.exists():
        print(f"{args.output.name}: is there already")
        return 0
    try:
        meta = settings(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        model, recording = Path(folder) / "model", Path(folder) / "iters.jsonl"
        model.mkdir()
        shutil.copy(args.model_config, model / "config.json")
        os.environ.update(
            HOL_RECORD=str(recording),
            HOL_POLICY=args.policy,
            HOL_POLICY_ARGS=args.policy_args,
            HOL_HARDWARE=args.hardware,
        )
        text = asyncio.run(run(args, model, meta))
        write_compressed(iterations_file, recording.read_bytes())
        write_compressed(requests_file, text.encode())
    print(f"{args.output.name}: {args.requests} requests served")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

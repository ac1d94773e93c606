"""The flags of ``main.py``: the published names, the newer ones, and this project's own."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import get_args

from astra_sim.et import Dialect
from astra_sim.input_error import InputError
from astra_sim.ns3_flags import add_packet_flags, packet_options
from inference_serving.gate_function import check_expert_routing, expert_routing_names
from inference_serving.logger import LEVELS
from inference_serving.policies import check_policy, is_policy, policy_names, prefill_policy_names
from inference_serving.policies.options import parse_pairs
from inference_serving.precision import kv_bits_of, weight_bits_of
from inference_serving.registry import UnknownNameError
from inference_serving.router import check_router, router_names
from inference_serving.settings import (
    DEFAULT_PREFIX_CHUNK_TOKENS,
    DumpSettings,
    SchedulerSettings,
    SimulationConfig,
)
from inference_serving.speculation.options import add_speculation_flags, speculation_of_flags
from llm_profile.latency import PREDICTED, SOURCES

_DEFAULT_CLUSTER = Path("cluster_config/single_node_single_instance.json")
_BACKENDS = {"analytical": "unaware", "analytical-aware": "aware", "ns3": "ns3"}
_MOST = 10**12
_MOST_DUMPED = 100_000


def make_parser() -> argparse.ArgumentParser:
    """All flags, with their defaults in the help."""
    parser = argparse.ArgumentParser(
        prog="llmservingsim",
        description="Simulate LLM serving: requests in, latencies out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_run_flags(parser.add_argument_group("run"))
    _add_scheduler_flags(parser.add_argument_group("batching"))
    add_speculation_flags(parser.add_argument_group("speculative decoding"))
    _add_model_flags(parser.add_argument_group("model and memory"))
    add_packet_flags(parser.add_argument_group("packets, with --network-backend ns3"))
    _add_output_flags(parser.add_argument_group("output"))
    return parser


def _add_run_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cluster-config", type=Path, default=_DEFAULT_CLUSTER, help="nodes and instances")
    group.add_argument("--dataset", type=Path, help="workload, a JSONL file (required)")
    group.add_argument("--num-req", type=int, default=100, help="take the first N requests or sessions")
    group.add_argument(
        "--max-concurrency",
        type=int,
        default=0,
        metavar="N",
        help="requests under way at a time, others wait at their clients (docs/sessions.md); 0 = no limit",
    )
    group.add_argument(
        "--request-routing-policy",
        metavar="NAME",
        default="RR",
        help=f"which instance serves a request: {', '.join(router_names())}, or module:Class",
    )
    group.add_argument(
        "--router-args", metavar="K=V,...", default="", help="options of the router, see docs/extending.md"
    )
    group.add_argument(
        "--expert-routing-policy",
        metavar="NAME",
        default="FAST",
        help=f"which experts tokens go to: {', '.join(expert_routing_names())}, or module:Class; see docs/moe.md",
    )
    group.add_argument(
        "--expert-routing-args", metavar="K=V,...", default="", help="options of the expert routing"
    )
    group.add_argument(
        "--network-backend",
        choices=_BACKENDS,
        default="analytical",
        help="analytical: links without contention; analytical-aware: messages queue at links; ns3: packets",
    )
    group.add_argument(
        "--engine-binary", type=Path, help="run every iteration in this ASTRA-Sim executable instead"
    )
    group.add_argument("--seed", type=int, default=0, help="seed of everything random")


def _add_scheduler_flags(group: argparse._ArgumentGroup) -> None:
    toggle = argparse.BooleanOptionalAction
    group.add_argument(
        "--max-batch", "--max-num-seqs", type=int, default=0, help="sequences per batch, 0 = no limit"
    )
    group.add_argument(
        "--max-num-batched-tokens", type=int, default=2048, help="tokens per iteration, 0 = no limit"
    )
    group.add_argument("--block-size", type=int, default=16, help="tokens per KV block")
    group.add_argument(
        "--scheduling-policy",
        metavar="NAME",
        default="fcfs",
        help=f"who goes first: {', '.join([*policy_names(), *prefill_policy_names()])}, or module:Class",
    )
    group.add_argument(
        "--policy-args",
        metavar="K=V,...",
        default="",
        help="options of the scheduling policy, see docs/policies.md",
    )
    group.add_argument(
        "--prioritize-prefill", action="store_true", help="prefill gets the token budget before decode"
    )
    group.add_argument("--enable-chunked-prefill", action=toggle, default=True, help="split long prompts")
    group.add_argument(
        "--long-prefill-token-threshold", type=int, default=0, help="longest prefill chunk, 0 = no limit"
    )
    group.add_argument(
        "--reserve-full-isl",
        action=toggle,
        default=True,
        help="admit a request only if its whole prompt fits into the free KV blocks",
    )
    group.add_argument(
        "--async-scheduling",
        action=toggle,
        default=False,
        help="form each batch while the one before runs, as newer vLLM does by default",
    )
    group.add_argument(
        "--gen", action="store_true", help="turn the prefill phase off: prompts are in the KV cache already"
    )


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fp", type=int, default=16, help="bits of weights and activations: 8, 16 or 32")
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep KV blocks of prompts and find them again by their token ids",
    )
    group.add_argument(
        "--prefix-storage",
        choices=["None", "CPU", "CXL"],
        default="None",
        help="second tier of the prefix cache: the node's host memory, or the CXL pool",
    )
    group.add_argument(
        "--enable-prefix-sharing",
        action="store_true",
        help="one second tier for all instances of a node (CXL: of the cluster) instead of one each",
    )
    group.add_argument(
        "--prefix-chunk-tokens", type=int, help="tokens of a chunk in the second tier (default: 256)"
    )
    group.add_argument(
        "--enable-local-offloading",
        action="store_true",
        help="load the weights from the NPU's own memory (npu_mem) in each iteration",
    )
    group.add_argument(
        "--enable-attn-offloading",
        action="store_true",
        help="run decode attention in host memory that computes (cpu_mem.pim_config), see docs/pim.md",
    )
    group.add_argument(
        "--enable-sub-batch-interleaving",
        action="store_true",
        help="overlap the NPU work of half a batch with the offloaded attention of the other half",
    )
    group.add_argument("--dtype", default="auto", help="the same by name (bfloat16, fp8, ...); auto = --fp")
    group.add_argument(
        "--kv-cache-dtype", default="auto", help="number format of the KV cache; auto = as weights"
    )
    group.add_argument(
        "--npu-memory-utilization", type=float, default=0.9, help="share of NPU memory for weights and KV"
    )
    group.add_argument(
        "--num-gpu-blocks-override",
        type=int,
        metavar="N",
        help="KV blocks of each instance, whatever its memory holds (default: as many as fit)",
    )
    group.add_argument(
        "--latency-source", choices=["auto", *SOURCES], default="auto", help="where layer latencies come from"
    )
    group.add_argument(
        "--latency-scale", type=float, default=1.0, metavar="FACTOR", help="multiply all latencies by this"
    )
    group.add_argument(
        "--step-overhead",
        default="auto",
        metavar="auto|off|NS",
        help="launch and host time of an iteration: as calibrated, none, or nanoseconds",
    )
    group.add_argument(
        "--layer-group-overhead",
        default="auto",
        metavar="auto|off|NS",
        help="host time between the layer groups of an iteration: as --step-overhead, none, or nanoseconds",
    )
    group.add_argument(
        "--decode-attention",
        choices=["packed", "profiled"],
        default="packed",
        help="calibrated cards: read a K/V head once for all its query heads, as vLLM does, or as their tables did",
    )
    group.add_argument(
        "--enable-attn-prediction",
        action="store_true",
        help="tables: take attention from their predictor (llm_profile/build_predictor.sh)",
    )
    group.add_argument("--profile-dir", type=Path, help="folder of latency tables {hardware}/{model}/tp{N}/")


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", type=Path, help="per-request CSV")
    group.add_argument("--summary-json", type=Path, help="the summary as JSON")
    group.add_argument(
        "--long-prompt-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="prompts of at least N tokens are of class long, others short, unless the dataset has a class",
    )
    group.add_argument(
        "--wait-ledger",
        action="store_true",
        help="say in the CSV what every nanosecond before each first token was spent on",
    )
    group.add_argument(
        "--iteration-log", type=Path, help="CSV of all iterations: times, prompts, layer groups"
    )
    group.add_argument("--power-series", type=Path, help="power by log interval, node and part (needs power)")
    group.add_argument(
        "--memory-series", type=Path, help="NPU memory, prefix hits and second tier by log interval"
    )
    group.add_argument("--log-interval", type=float, default=0.5, help="seconds of simulated time")
    group.add_argument("--log-level", choices=LEVELS, default="WARNING", help="messages on stderr")
    group.add_argument(
        "--dump-traces", type=Path, metavar="DIR", help="write text traces, .et files and engine inputs"
    )
    group.add_argument(
        "--dump-iterations",
        default="0-9",
        metavar="LIST",
        help="which iterations, such as 0-9,100 (per instance)",
    )
    group.add_argument(
        "--et-dialect", choices=get_args(Dialect), default="chakra", help="dialect of dumped .et files"
    )


def simulation_config(args: argparse.Namespace) -> SimulationConfig:
    """Check the flags and freeze them; raises InputError with the flag's name."""
    _check_numbers(args)
    weight_bits, kv_bits = _bits(args)
    return SimulationConfig(
        scheduler=SchedulerSettings(
            max_num_seqs=args.max_batch,
            max_num_batched_tokens=args.max_num_batched_tokens,
            block_size=args.block_size,
            enable_chunked_prefill=args.enable_chunked_prefill,
            long_prefill_token_threshold=args.long_prefill_token_threshold,
            reserve_full_isl=args.reserve_full_isl,
            prioritize_prefill=args.prioritize_prefill,
            scheduling_policy=args.scheduling_policy,
            policy_args=_policy_args(args),
            skip_prefill=args.gen,
            enable_prefix_caching=args.enable_prefix_caching,
            async_scheduling=args.async_scheduling,
            speculation=speculation_of_flags(args),
        ),
        weight_bits=weight_bits,
        kv_bits=kv_bits,
        npu_memory_utilization=args.npu_memory_utilization,
        num_gpu_blocks_override=args.num_gpu_blocks_override,
        prefix_storage=_prefix_storage(args),
        prefix_sharing=args.enable_prefix_sharing,
        prefix_chunk_tokens=args.prefix_chunk_tokens or DEFAULT_PREFIX_CHUNK_TOKENS,
        local_offloading=args.enable_local_offloading,
        attn_offloading=args.enable_attn_offloading,
        sub_batch_interleaving=args.enable_sub_batch_interleaving,
        request_routing_policy=args.request_routing_policy,
        router_args=_router_args(args),
        max_concurrency=args.max_concurrency,
        expert_routing_policy=args.expert_routing_policy,
        expert_routing_args=_expert_routing_args(args),
        network_backend=_BACKENDS[args.network_backend],
        ns3=packet_options(args),
        engine_binary=args.engine_binary,
        latency_source=args.latency_source,
        profile_dir=args.profile_dir,
        packed_decode=args.decode_attention == "packed",
        attn_prediction=args.enable_attn_prediction,
        latency_scale=args.latency_scale,
        step_overhead_ns=_overhead_ns("--step-overhead", args.step_overhead),
        layer_group_overhead_ns=_overhead_ns("--layer-group-overhead", args.layer_group_overhead),
        long_prompt_tokens=args.long_prompt_tokens,
        wait_ledger=args.wait_ledger,
        seed=args.seed,
        log_interval_ns=round(args.log_interval * 1e9),
        dump=_dump_settings(args),
    )


def _check_numbers(args: argparse.Namespace) -> None:
    if args.dataset is None:
        raise InputError("", "--dataset", "give the workload to simulate, a JSONL file")
    for flag, least in (
        ("num-req", 1),
        ("max-concurrency", 0),
        ("max-batch", 0),
        ("max-num-batched-tokens", 0),
        ("block-size", 1),
        ("long-prefill-token-threshold", 0),
        ("seed", 0),
        ("num-gpu-blocks-override", 1),
        ("long-prompt-tokens", 1),
        ("prefix-chunk-tokens", 1),
    ):
        value = getattr(args, flag.replace("-", "_"))
        if value is None:
            continue
        if value < least:
            raise InputError("", f"--{flag}", f"{value}: must be at least {least}")
        if value > _MOST:
            raise InputError("", f"--{flag}", f"{value}: must be at most {_MOST}")
    if not 1e-9 <= args.log_interval <= 1e9:
        raise InputError("", "--log-interval", f"{args.log_interval:g}: must be between 1e-9 and 1e9 seconds")
    if not 1e-3 <= args.latency_scale <= 1e3:
        raise InputError("", "--latency-scale", f"{args.latency_scale:g}: must be between 0.001 and 1000")
    if args.engine_binary is not None and args.network_backend != "analytical":
        raise InputError(
            "",
            "--network-backend",
            f"{args.network_backend}: --engine-binary brings its own network; drop one of the two",
        )
    if args.enable_attn_prediction and args.latency_source not in ("auto", PREDICTED):
        raise InputError(
            "",
            "--enable-attn-prediction",
            f"needs --latency-source {PREDICTED}, not {args.latency_source}: only tables have a predictor",
        )
    if args.enable_sub_batch_interleaving and not args.enable_attn_offloading:
        raise InputError(
            "",
            "--enable-sub-batch-interleaving",
            "overlaps NPU work with offloaded attention; give --enable-attn-offloading, too",
        )
    if not 0 < args.npu_memory_utilization <= 1:
        raise InputError(
            "", "--npu-memory-utilization", f"{args.npu_memory_utilization:g}: must be in (0, 1], such as 0.9"
        )


def _prefix_storage(args: argparse.Namespace) -> str | None:
    if args.prefix_storage == "None":
        if args.enable_prefix_sharing:
            raise InputError(
                "",
                "--enable-prefix-sharing",
                "there is no second tier to share; give --prefix-storage CPU or CXL",
            )
        if args.prefix_chunk_tokens is not None:
            raise InputError(
                "",
                "--prefix-chunk-tokens",
                f"{args.prefix_chunk_tokens}: there is no second tier; give --prefix-storage CPU or CXL",
            )
        return None
    if args.engine_binary is not None or (args.dump_traces is not None and args.et_dialect == "astra-sim"):
        raise InputError(
            "",
            "--prefix-storage",
            f"{args.prefix_storage}: stock ASTRA-Sim cannot play its loads and stores; use None",
        )
    return str(args.prefix_storage).lower()


def _bits(args: argparse.Namespace) -> tuple[int, int | None]:
    if args.fp not in (8, 16, 32):
        raise InputError("", "--fp", f"{args.fp}: must be 8, 16 or 32")
    flag = "--dtype"
    try:
        weight_bits = weight_bits_of(args.dtype, args.fp)
        flag = "--kv-cache-dtype"
        kv_bits = kv_bits_of(args.kv_cache_dtype, weight_bits)
    except ValueError as error:
        raise InputError("", flag, str(error)) from None
    return weight_bits, None if args.kv_cache_dtype == "auto" else kv_bits


def _pairs(flag: str, text: str) -> dict[str, str]:
    try:
        return parse_pairs(text)
    except ValueError as error:
        raise InputError("", flag, str(error)) from None


def _router_args(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    pairs = _pairs("--router-args", args.router_args)
    try:
        check_router(args.request_routing_policy, pairs)
    except UnknownNameError as error:
        raise InputError("", "--request-routing-policy", str(error)) from None
    except ValueError as error:
        raise InputError("", "--router-args", str(error)) from None
    return tuple(pairs.items())


def _expert_routing_args(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    pairs = _pairs("--expert-routing-args", args.expert_routing_args)
    try:
        check_expert_routing(args.expert_routing_policy, pairs)
    except UnknownNameError as error:
        raise InputError("", "--expert-routing-policy", str(error)) from None
    except ValueError as error:
        raise InputError("", "--expert-routing-args", str(error)) from None
    return tuple(pairs.items())


def _policy_args(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    pairs = _pairs("--policy-args", args.policy_args)
    try:
        check_policy(args.scheduling_policy, pairs)
    except ValueError as error:
        flag = "--policy-args" if pairs and is_policy(args.scheduling_policy) else "--scheduling-policy"
        raise InputError("", flag, str(error)) from None
    if args.scheduling_policy not in policy_names() and not args.enable_chunked_prefill:
        raise InputError(
            "",
            "--no-enable-chunked-prefill",
            f"{args.scheduling_policy} works in chunks; drop this flag or use one of {', '.join(policy_names())}",
        )
    return tuple(pairs.items())


def _overhead_ns(flag: str, text: str) -> int | None:
    if text == "auto":
        return None
    if text == "off":
        return 0
    if not re.fullmatch(r"[0-9]{1,13}", text) or int(text) > _MOST:
        raise InputError("", flag, f"{text!r}: give auto, off or whole nanoseconds from 0 to {_MOST}")
    return int(text)


def _dump_settings(args: argparse.Namespace) -> DumpSettings | None:
    iterations = _iterations(args.dump_iterations)
    return args.dump_traces and DumpSettings(args.dump_traces, iterations, args.et_dialect)


def _iterations(text: str) -> frozenset[int]:
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InputError("", "--dump-iterations", f"{text!r}: give numbers and ranges, such as 0-9,100")
        if last - first >= _MOST_DUMPED:
            raise InputError("", "--dump-iterations", f"{text!r}: a range may hold {_MOST_DUMPED} iterations")
        chosen.update(range(first, last + 1))
    return frozenset(chosen)

"""The features of a run as axes: kinds of cluster, workloads and flags, and which of their values exclude each other.

A new kind of cluster is one line in ``CLUSTERS``, a new flag one in ``FLAGS``, and what it cannot be combined with
one in ``IMPOSSIBLE``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clusters import cluster_file, instance
from covering_array import Choice
from moe_clusters import moe_instance
from power_clusters import POWER

from inference_serving.policies import prefill_policy_names

CXL_POOL = {"mem_size": 1, "mem_bw": 60, "mem_latency": 250, "num_devices": 2}
ELSEWHERE = {"default": {"weights": "cpu"}, "layers": {"lm_head": {"weights": "cxl:1"}}}
SWAPPED = {"default": {"kv_evict_loc": "cpu"}}
KV_ON_CXL = {"default": {"kv_loc": "cxl:0", "kv_evict_loc": "cxl:1"}}
OVERRIDES = {"max_num_seqs": 2, "scheduling_policy": "priority", "reserve_full_isl": False}
DP = {"ep_size": 2, "dp_group": "pair"}

Builder = Callable[[Path], Path]


def one_node(*sections: Callable[[Path], dict[str, Any]]) -> Builder:
    """A cluster of one node."""
    return lambda folder: cluster_file(folder, [section(folder) for section in sections])


def dense(npus: int = 1, pd_type: str | None = None, **extra: Any) -> Callable[[Path], dict[str, Any]]:
    """An instance of the tiny dense model."""
    return lambda folder: instance(folder, npus, pd_type, **extra)


def moe(npus: int = 1, pd_type: str | None = None, **extra: Any) -> Callable[[Path], dict[str, Any]]:
    """An instance of the tiny mixture of experts."""
    return lambda folder: moe_instance(folder, npus, pd_type, **extra)


def with_nodes(builder: Builder, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Builder:
    """Another cluster with its nodes changed."""

    def build(folder: Path) -> Path:
        file = builder(folder)
        nodes = change(json.loads(file.read_text())["nodes"])
        return changed(file, nodes=nodes, num_nodes=len(nodes))

    return build


def with_pim(builder: Builder) -> Builder:
    """Another cluster whose host memories compute, which changes nothing unless attention is offloaded to them."""
    device = {"pim_config": "DDR4_8GB_3200_pim"}
    return with_nodes(builder, lambda nodes: [node | {"cpu_mem": node["cpu_mem"] | device} for node in nodes])


def apart(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same instances, each on a node of its own."""
    return [node | {"num_instances": 1, "instances": [one]} for node in nodes for one in node["instances"]]


def changed(file: Path, **top: Any) -> Path:
    """The cluster file with some of its fields changed."""
    file.write_text(json.dumps(json.loads(file.read_text()) | top))
    return file


POOLS: Mapping[str, dict[str, Any]] = {"-": {}, "CXL": {"cxl_mem": CXL_POOL}}
"""Memories that a cluster has besides those of its nodes."""
CLUSTERS: Mapping[str, Builder] = {
    "single": one_node(dense()),
    "multi": one_node(dense(), dense()),
    "two nodes": with_nodes(one_node(dense()), lambda nodes: nodes * 2),
    "unlike": one_node(dense(), dense(hardware="A6000", dtype="fp32"), dense(**OVERRIDES)),
    "tensor parallel": one_node(dense(2)),
    "prefill/decode": one_node(dense(1, "prefill"), dense(1, "decode")),
    "prefill/decode, unequal": one_node(dense(2, "prefill"), dense(1, "prefill"), dense(4, "decode")),
    "prefill/decode, two nodes": with_nodes(one_node(dense(1, "prefill"), dense(1, "decode")), apart),
    "weights elsewhere": one_node(dense(2, placement=ELSEWHERE)),
    "KV swapped": one_node(dense(placement=SWAPPED), dense(placement=SWAPPED)),
    "KV on CXL": one_node(dense(placement=KV_ON_CXL)),
    "power": with_nodes(one_node(dense(2)), lambda nodes: [nodes[0] | {"power": POWER}]),
    "computing memory": with_pim(one_node(dense(2), dense())),
    "computing memory, prefill/decode": with_pim(one_node(dense(2, "prefill"), dense(1, "decode"))),
    "computing memory, experts": with_pim(one_node(moe(2, ep_size=2))),
    "experts": one_node(moe()),
    "experts, prefill/decode": one_node(moe(2, "prefill", ep_size=2), moe(1, "decode")),
    "experts, spread": one_node(moe(2, ep_size=2), moe(2)),
    "data parallel": one_node(moe(**DP), moe(**DP)),
    "stages": one_node(dense(4, npu_group=2)),
    "stages, prefill/decode": one_node(dense(2, "prefill", npu_group=2), dense(4, "decode", npu_group=2)),
    "stages, data parallel": one_node(moe(2, npu_group=2, **DP), moe(2, npu_group=2, **DP)),
}

PROMPTS = (90, 7, 150, 33, 64, 1, 200, 48, 17, 120)
OUTPUTS = (5, 30, 1, 12, 40, 8, 3, 2, 25, 16)


def token_ids(count: int, number: int) -> list[int]:
    """A prompt's ids: the first 48 are everybody's, the next are those of every third, the last its own."""
    shared = [n % 251 for n in range(48)] + [(number % 3 * 31 + n) % 241 for n in range(40)]
    return (shared + [(number * 17 + n) % 239 for n in range(count)])[:count]


def lines(with_ids: bool) -> list[dict[str, Any]]:
    """Requests of every length, which arrive while others run; some have a priority."""
    made: list[dict[str, Any]] = []
    for number, (prompt, output) in enumerate(zip(PROMPTS, OUTPUTS, strict=True)):
        line = {"input_toks": prompt, "output_toks": output, "arrival_time_ns": number * 60_000}
        ids = {"input_tok_ids": token_ids(prompt, number), "output_tok_ids": token_ids(output, number + 50)}
        made.append(line | {"priority": number % 4} | (ids if with_ids else {}))
    return made


def sessions() -> list[dict[str, Any]]:
    """Three sessions of three turns each; a turn's prompt begins with the one before."""
    made: list[dict[str, Any]] = []
    for number in range(3):
        turns = [
            {"input_toks": n, "output_toks": 6, "input_tok_ids": token_ids(n, number)}
            | {"output_tok_ids": token_ids(6, number + turn), "tool_duration_ns": 90_000 * (turn < 2)}
            for turn, n in enumerate((60, 110, 170))
        ]
        one = {"session_id": f"s{number}", "arrival_time_ns": number * 40_000, "sub_requests": turns}
        made.append(one)
    return made


WORKLOADS: Mapping[str, Callable[[], Sequence[dict[str, Any]]]] = {
    "token ids": lambda: lines(with_ids=True),
    "lengths": lambda: lines(with_ids=False),
    "sessions": sessions,
}


def flag(name: str, *values: str | int) -> dict[str, list[str]]:
    """The flag left out, and with each of the values."""
    return {"-": []} | {str(value): [f"--{name}", str(value)] for value in values}


def switch(name: str) -> dict[str, list[str]]:
    """The flag left out, and given."""
    return {"-": [], "on": [f"--{name}"]}


POLICIES = {name: ["--scheduling-policy", name] for name in prefill_policy_names()}
FLAGS: Mapping[str, Mapping[str, list[str]]] = {
    "policy": flag("scheduling-policy", "priority")
    | POLICIES
    | {"srpt, groups": ["--scheduling-policy", "srpt", "--policy-args", "groups=2,chunk=32"]},
    "router": flag("request-routing-policy", "RAND", "LOAD", "LWL", "SITA", "MSC", "PREFIX")
    | {"sticky": ["--router-args", "sticky=true"]},
    "experts": flag("expert-routing-policy", "RR", "RAND", "POWERLAW"),
    "caching": switch("enable-prefix-caching"),
    "storage": flag("prefix-storage", "CPU", "CXL"),
    "sharing": switch("enable-prefix-sharing"),
    "chunk tokens": flag("prefix-chunk-tokens", 32),
    "offloading": switch("enable-local-offloading"),
    "attention in memory": {
        "-": [],
        "on": ["--enable-attn-offloading"],
        "interleaved": ["--enable-attn-offloading", "--enable-sub-batch-interleaving"],
    },
    "whole prompts": switch("no-enable-chunked-prefill"),
    "tokens": flag("max-num-batched-tokens", 48, 0),
    "sequences": flag("max-num-seqs", 3),
    "threshold": flag("long-prefill-token-threshold", 24),
    "block size": flag("block-size", 4, 32),
    "blocks": flag("num-gpu-blocks-override", 64),
    "memory": flag("npu-memory-utilization", 0.8),
    "precision": flag("fp", 8, 32) | {"dtype": ["--dtype", "bfloat16"]},
    "kv dtype": flag("kv-cache-dtype", "fp8"),
    "admission": switch("no-reserve-full-isl"),
    "prefill first": switch("prioritize-prefill"),
    "async": switch("async-scheduling"),
    "gen": switch("gen"),
    "clients": flag("max-concurrency", 2),
    "network": flag("network-backend", "analytical-aware"),
    "overhead": flag("step-overhead", "off", 5000),
    "group overhead": flag("layer-group-overhead", "off"),
    "latency": flag("latency-source", "calibrated"),
    "attention": flag("decode-attention", "profiled"),
    "ledger": switch("wait-ledger"),
    "log": flag("iteration-log", "LOG"),
    "memory log": flag("memory-series", "LOG"),
    "power log": flag("power-series", "LOG"),
    "traces": {
        "-": [],
        "chakra": ["--dump-traces", "LOG", "--dump-iterations", "0,3"],
        "kaist": ["--dump-traces", "LOG", "--dump-iterations", "0,3", "--et-dialect", "kaist"],
        "astra-sim": ["--dump-traces", "LOG", "--dump-iterations", "1", "--et-dialect", "astra-sim"],
    },
}
AXES: Mapping[str, Sequence[str]] = {
    "cluster": list(CLUSTERS),
    "pool": list(POOLS),
    "workload": list(WORKLOADS),
    **{name: list(values) for name, values in FLAGS.items()},
}


class Impossible(NamedTuple):
    """Two choices that exclude each other (any of the values), and the words of the message that name them."""

    one: tuple[str, Sequence[str]]
    other: tuple[str, Sequence[str]]
    words: tuple[str, str]


def among(axis: str, *words: str) -> tuple[str, Sequence[str]]:
    """The values of an axis that have one of the words in them."""
    return axis, [value for value in AXES[axis] if any(word in value for word in words)]


def but(axis: str, *values: str) -> tuple[str, Sequence[str]]:
    """All values of an axis but these."""
    return axis, [value for value in AXES[axis] if value not in values]


PREFILL_POLICIES = ("policy", [*POLICIES, "srpt, groups"])
IMPOSSIBLE: Sequence[Impossible] = (
    Impossible(("workload", ["lengths"]), ("caching", ["on"]), ("token ids", "prefix caching")),
    Impossible(("router", ["PREFIX"]), ("caching", ["-"]), ("PREFIX", "--enable-prefix-caching")),
    Impossible(but("storage", "-"), ("caching", ["-"]), ("--prefix-storage", "--enable-prefix-caching")),
    Impossible(("sharing", ["on"]), ("storage", ["-"]), ("--enable-prefix-sharing", "--prefix-storage")),
    Impossible(but("chunk tokens", "-"), ("storage", ["-"]), ("--prefix-chunk-tokens", "--prefix-storage")),
    Impossible(("cluster", ["KV on CXL"]), but("storage", "-"), ("kv_loc", "--prefix-storage")),
    Impossible(among("cluster", "data parallel"), but("storage", "-"), ("dp_group", "--prefix-storage")),
    Impossible(("pool", ["-"]), ("storage", ["CXL"]), ("cxl_mem", "--prefix-storage CXL")),
    Impossible(("pool", ["-"]), among("cluster", "elsewhere", "KV on CXL"), ("cxl", "cxl_mem")),
    Impossible(("pool", ["CXL"]), ("traces", ["astra-sim"]), ("--et-dialect", "CXL")),
    Impossible(("cluster", ["KV swapped"]), ("traces", ["astra-sim"]), ("--et-dialect", "KV elsewhere")),
    Impossible(("offloading", ["on"]), ("traces", ["astra-sim"]), ("--et-dialect", "offloading")),
    Impossible(
        but("cluster", *(name for name in CLUSTERS if name.startswith("computing"))),
        but("attention in memory", "-"),
        ("pim_config", "--enable-attn-offloading"),
    ),
    Impossible(
        but("attention in memory", "-"), ("caching", ["on"]), ("--enable-attn-offloading", "prefix_caching")
    ),
    Impossible(
        but("attention in memory", "-"), ("traces", ["astra-sim"]), ("--et-dialect", "memory that computes")
    ),
    Impossible(among("cluster", "prefill"), ("async", ["on"]), ("async_scheduling", "prefill instances")),
    Impossible(among("cluster", "prefill"), ("gen", ["on"]), ("pd_type", "--gen")),
    Impossible(among("cluster", "data parallel"), ("async", ["on"]), ("dp_group", "asynchronous scheduling")),
    Impossible(among("cluster", "data parallel"), but("traces", "-"), ("data parallelism", "--dump-traces")),
    Impossible(("cluster", ["stages"]), ("async", ["on"]), ("async_scheduling", "pipeline parallelism")),
    Impossible(among("cluster", "stages"), ("ledger", ["on"]), ("pp_size", "--wait-ledger")),
    Impossible(PREFILL_POLICIES, among("cluster", "stages"), ("POLICY", "pipeline parallelism")),
    Impossible(PREFILL_POLICIES, ("async", ["on"]), ("async_scheduling", "POLICY")),
    Impossible(PREFILL_POLICIES, ("whole prompts", ["on"]), ("chunked-prefill", "POLICY")),
    Impossible(
        ("threshold", ["24"]), ("whole prompts", ["on"]), ("long_prefill_token_threshold", "chunked prefill")
    ),
    Impossible(("tokens", ["48"]), ("whole prompts", ["on"]), ("chunked prefill", "max_num_batched_tokens")),
    Impossible(but("cluster", "power"), but("power log", "-"), ("--power-series", "power block")),
    Impossible(but("storage", "-"), ("traces", ["astra-sim"]), ("--prefix-storage", "stock ASTRA-Sim")),
)


def pairs_of(rule: Impossible) -> list[tuple[Choice, Choice]]:
    """The pairs that a rule forbids."""
    (axis, values), (other_axis, others) = rule.one, rule.other
    return [((axis, value), (other_axis, other)) for value in values for other in others]


_FORBIDDEN = {frozenset(pair) for rule in IMPOSSIBLE for pair in pairs_of(rule)}


def allowed(one: Choice, other: Choice) -> bool:
    """Whether two choices go together."""
    return frozenset((one, other)) not in _FORBIDDEN

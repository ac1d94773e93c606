"""Settings of a run, frozen: what the command line and the cluster config decide, and nothing derived."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from astra_sim.et import Dialect
from astra_sim.ns3_backend import Ns3Options
from inference_serving.speculation.drafts import Speculation

DEFAULT_PREFIX_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How one instance batches.

    ``max_num_seqs``, ``max_num_batched_tokens`` and ``long_prefill_token_threshold`` of 0 mean no limit.
    ``reserve_full_isl`` admits a request only if its whole prompt fits into the free KV blocks.
    ``async_scheduling`` forms each batch while the one before runs, see
    :class:`~inference_serving.async_scheduler.AsyncScheduler`.
    """

    max_num_seqs: int = 0
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    reserve_full_isl: bool = True
    prioritize_prefill: bool = False
    scheduling_policy: str = "fcfs"
    policy_args: tuple[tuple[str, str], ...] = ()
    """Options of a prefill policy by name, as text; each policy knows its own."""
    skip_prefill: bool = False
    enable_prefix_caching: bool = False
    async_scheduling: bool = False
    speculation: Speculation | None = None
    """Drafts that decoding requests verify; None: one token an iteration."""

    @property
    def token_budget(self) -> int:
        """Most tokens of one iteration, a number even where there is no limit."""
        return self.max_num_batched_tokens or sys.maxsize

    @property
    def longest_chunk(self) -> int:
        """Most tokens of one prompt in an iteration."""
        return min(self.token_budget, self.long_prefill_token_threshold or sys.maxsize)


@dataclass(frozen=True, slots=True)
class DumpSettings:
    """Which iterations are written out: ``--dump-traces`` and ``--dump-iterations``."""

    folder: Path
    iterations: frozenset[int]
    et_dialect: Dialect = "chakra"


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """Everything that one run needs to know besides the cluster and the workload."""

    scheduler: SchedulerSettings = SchedulerSettings()
    weight_bits: int = 16
    kv_bits: int | None = None
    """Bits of a KV element; None: as the weights of each instance."""
    npu_memory_utilization: float = 0.9
    num_gpu_blocks_override: int | None = None
    """KV blocks of every instance that does not give its own; None: as many as fit."""
    local_offloading: bool = False
    """Whether every iteration loads the weights from the NPUs' own memories."""
    attn_offloading: bool = False
    """Whether decode attention runs in the host memory of nodes whose memory can compute."""
    sub_batch_interleaving: bool = False
    """Whether the NPUs work on one half of a batch while the memory works on the other."""
    prefix_storage: str | None = None
    """Second tier of the prefix cache: ``cpu`` or ``cxl``."""
    prefix_sharing: bool = False
    """Whether the instances of a node share it."""
    prefix_chunk_tokens: int = DEFAULT_PREFIX_CHUNK_TOKENS
    """Tokens of a chunk in the second tier."""
    request_routing_policy: str = "RR"
    router_args: tuple[tuple[str, str], ...] = ()
    """Options of the router by name, as text; each router knows its own."""
    max_concurrency: int = 0
    """Most requests under way at a time, 0 = no limit; the others wait at their clients, as in vLLM's benchmark."""
    expert_routing_policy: str = "FAST"
    expert_routing_args: tuple[tuple[str, str], ...] = ()
    """Options of the expert routing by name, as text."""
    network_backend: str = "unaware"
    ns3: Ns3Options | None = None
    engine_binary: Path | None = None
    latency_source: str = "auto"
    profile_dir: Path | None = None
    packed_decode: bool = True
    """Price decode attention as vLLM's kernels run it, see LatencyQuery."""
    attn_prediction: bool = False
    """Take attention from the predictor beside the latency tables."""
    latency_scale: float = 1.0
    """Every latency, the step overhead included, takes so many times as long as its source says."""
    step_overhead_ns: int | None = None
    """Launch and host time of every iteration; None: what the latency source of each instance says."""
    layer_group_overhead_ns: int | None = None
    """Host time before each layer group but an iteration's first; None: that of an iteration, the most that the
    way back to the scheduler can cost."""
    long_prompt_tokens: int = 8192
    """A prompt of at least so many tokens is of the class ``long`` where the dataset gives no class."""
    wait_ledger: bool = False
    """Whether to account for every nanosecond before each first token."""
    seed: int = 0
    log_interval_ns: int = 500_000_000
    dump: DumpSettings | None = None

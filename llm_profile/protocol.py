"""The question a simulation asks (:class:`LatencyQuery`) and the answer it gets (:class:`LatencyModel`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.model_config import ModelConfig


class Source(StrEnum):
    """How a number came about; reports carry it next to every latency."""

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    EXTRAPOLATED = "extrapolated"
    ESTIMATED = "estimated"


@runtime_checkable
class LatencyModel(Protocol):
    """Latencies of one model on one tensor-parallel rank of one card; all times are int nanoseconds."""

    name: str
    """Where the numbers come from, such as ``tables:A6000/meta-llama/Llama-3.1-8B/tp1``."""
    step_overhead_ns: int
    """Kernel launches and host work of one iteration; never folded into a layer."""

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one dense layer for each of ``tokens`` (all >= 1, any shape); collectives not included."""
        ...

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention for one batch, one array element a request.

        A prefilling request computes ``prefill_q`` tokens on ``prefill_context`` tokens already in the cache
        (its KV is their sum); a decoding request reads ``decode_kv`` tokens of KV, the new one included.
        """
        ...

    def moe_ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of one layer's experts on one rank that has as many experts as ``tokens_per_expert`` elements.

        Each element counts the tokens routed to that expert; 0 costs nothing. The router is the layer ``gate`` of
        :meth:`layer_ns`, collectives are not included. Raises InputError if the source has no experts.
        """
        ...

    def moe_source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """How :meth:`moe_ns` gets the time of these experts."""
        ...

    def source(self, layer: str, tokens: int) -> Source:
        """How :meth:`layer_ns` gets this number."""
        ...

    def attention_source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """How :meth:`attention_ns` gets the time of this batch; one part beyond the data makes it extrapolated."""
        ...


@dataclass(frozen=True)
class LatencyQuery:
    """What latencies are wanted for."""

    hardware: str
    model: ModelConfig
    tp_size: int
    weight_bits: int = 16
    kv_bits: int = 16
    mem_bw_gbps: float | None = None
    """Memory bandwidth of the cluster config (1e9 bytes/s), if it should override the datasheet's."""
    profile_dir: Path | None = None
    """Folder of tables; default: ``llm_profile/perf_models`` here, then the project's."""
    packed_decode: bool = False
    """Price decode attention with kernels that read a K/V head once for all its query heads, as vLLM's do, also on
    cards whose tables were taken with others; only descriptions can."""
    expert_tp_size: int = 1
    """Ranks that share the columns of each expert; 1: experts are whole, spread over ranks (expert parallelism)."""
    ep_size: int = 1
    """Ranks that whole experts are spread over; 1: each rank has all experts, or its columns of each."""
    predicted_attention: bool = False
    """Take attention from the predictor beside the tables (``llm_profile.build_predictor``); only tables can."""

    @property
    def experts_per_rank(self) -> int:
        """Experts that one rank computes in a block, whole or its columns of each; 0 for a dense model."""
        return self.model.num_experts // self.ep_size


class NoLatencyError(InputError):
    """A source has nothing for a query (as opposed to having a file that is broken)."""

"""Bundles: measured profiles in the newer layout, ``{profile_dir}/{hardware}/{model}/{variant}/tp{N}/``.

``dense.csv`` has the layers by tokens, ``per_sequence.csv`` the LM head and the sampler by sequences,
``attention.csv`` whole batches, ``skew_fit.csv`` (optional) what uneven decodes cost; times in microseconds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llm_profile.bundle_attention import BundleAttention, read_attention_rows
from llm_profile.bundle_layers import SplitCurves, read_layer_curves
from llm_profile.bundle_meta import Bundle, bundle_folders, find_bundle
from llm_profile.bundle_moe import BundleExperts, moe_file, read_moe_rows
from llm_profile.bundle_skew import read_skew
from llm_profile.experts import Experts, NoExperts
from llm_profile.hardware import datasheet_bandwidth_gbps
from llm_profile.layers import kv_bytes_per_token
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source
from llm_profile.tables_v1 import BANDWIDTH_TOLERANCE, table_dirs


class BundleLatencyModel:
    """Latencies read from a bundle; implements :class:`~llm_profile.protocol.LatencyModel`."""

    def __init__(
        self,
        name: str,
        layers: SplitCurves,
        attention: BundleAttention,
        experts: Experts,
        step_overhead_ns: int,
    ) -> None:
        self.name = name
        self.step_overhead_ns = step_overhead_ns
        self._layers = layers
        self._attention = attention
        self._experts = experts

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one layer; parts of a fused one add up to what was measured. ``lm_head`` samples too."""
        return self._layers.ns(layer, np.asarray(tokens))

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention of a batch."""
        return self._attention.ns(prefill_q, prefill_context, decode_kv)

    def moe_ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of one rank's experts in grouped kernels."""
        return self._experts.ns(tokens_per_expert)

    def moe_source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """Measured, interpolated or extrapolated."""
        return self._experts.source(tokens_per_expert)

    def source(self, layer: str, tokens: int) -> Source:
        """Measured, interpolated or extrapolated."""
        return self._layers.source(layer, tokens)

    def attention_source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Interpolated, or extrapolated if a chunk, its context or the decodes lie beyond the table."""
        return self._attention.source(prefill_q, prefill_context, decode_kv)


def known_bundles(query: LatencyQuery) -> list[str]:
    """Hardware names that have a bundle of some model."""
    found = (f.relative_to(root).parts[0] for root in table_dirs(query) for f in bundle_folders(root))
    return sorted(set(found))


def open_bundle(query: LatencyQuery) -> BundleLatencyModel:
    """Read the bundle of ``query``; :class:`NoLatencyError` if there is none that fits it."""
    bundle = find_bundle(query)
    bandwidth_gbps = _bandwidth(query, bundle)
    folder = bundle.folder
    layers = read_layer_curves(folder, query)
    skew_file = folder / "skew_fit.csv"
    skew = read_skew(skew_file) if skew_file.is_file() else None
    kv_bytes = kv_bytes_per_token(query.model, query.tp_size, bundle.kv_bits)
    floor_ns = kv_bytes / bandwidth_gbps if bandwidth_gbps else 0.0
    rows = read_attention_rows(folder / "attention.csv", replace(query, kv_bits=bundle.kv_bits))
    attention = BundleAttention(rows, skew, floor_ns)
    experts = _experts(query, bundle)
    return BundleLatencyModel(f"bundle:{bundle.key}", layers, attention, experts, bundle.step_overhead_ns)


def _experts(query: LatencyQuery, bundle: Bundle) -> Experts:
    """Whole experts are those of one rank, whatever the tensor parallelism of the other layers."""
    name = f"bundle:{bundle.key}"
    if not query.model.is_moe:
        return NoExperts(name, "this is a dense model")
    file = moe_file(bundle.folder, query.expert_tp_size)
    if not file.is_file():
        return NoExperts(name, f"no {file}")
    return BundleExperts(read_moe_rows(file, query), query.model.num_experts_per_tok)


def _bandwidth(query: LatencyQuery, bundle: Bundle) -> float | None:
    """Bandwidth of the card in 1e9 bytes/s, if known; a cluster's that contradicts it is refused."""
    measured, wanted = datasheet_bandwidth_gbps(query.hardware), query.mem_bw_gbps
    if measured and wanted and abs(wanted / measured - 1) > BANDWIDTH_TOLERANCE:
        raise NoLatencyError(
            bundle.folder,
            "mem_bw",
            f"{wanted:g} GB/s: this bundle was measured on a card with {measured:g} GB/s",
        )
    return measured or wanted

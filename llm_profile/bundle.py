"""Bundles: measured profiles in the newer layout, ``{profile_dir}/{hardware}/{model}/{variant}/tp{N}/``.

``dense.csv`` has the layers by tokens, ``per_sequence.csv`` the LM head and the sampler by sequences,
``attention.csv`` whole batches, ``skew_fit.csv`` (optional) what uneven decodes cost; times in microseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.bundle_attention import BundleAttention, read_bundle_attention
from llm_profile.bundle_layers import SplitCurves, read_layer_curves
from llm_profile.bundle_meta import Bundle, bundle_folders, find_bundle
from llm_profile.bundle_skew import read_skew
from llm_profile.hardware import datasheet_bandwidth_gbps
from llm_profile.layers import kv_bytes_per_token, layer_shape
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source
from llm_profile.tables_v1 import BANDWIDTH_TOLERANCE, table_dirs

IMPOSSIBLE_SPEED = 100.0
"""Weights are never read this many times faster than memory allows; a thousand times means milliseconds."""


class BundleLatencyModel:
    """Latencies read from a bundle; implements :class:`~llm_profile.protocol.LatencyModel`."""

    def __init__(
        self, name: str, layers: SplitCurves, attention: BundleAttention, step_overhead_ns: int
    ) -> None:
        self.name = name
        self.step_overhead_ns = step_overhead_ns
        self._layers = layers
        self._attention = attention

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one layer; parts of a fused one add up to what was measured. ``lm_head`` samples too."""
        return self._layers.ns(layer, np.asarray(tokens))

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention of a batch."""
        return self._attention.ns(prefill_q, prefill_context, decode_kv)

    def source(self, layer: str, tokens: int) -> Source:
        """Measured, interpolated or extrapolated; attention is at best interpolated."""
        return self._attention.source(tokens) if layer == "attn" else self._layers.source(layer, tokens)


def known_bundles(query: LatencyQuery) -> list[str]:
    """Hardware names that have a bundle of some model."""
    found = (f.relative_to(root).parts[0] for root in table_dirs(query) for f in bundle_folders(root))
    return sorted(set(found))


def open_bundle(query: LatencyQuery) -> BundleLatencyModel:
    """Read the bundle of ``query``; :class:`NoLatencyError` if there is none that fits it."""
    bundle = find_bundle(query)
    bandwidth_gbps = _bandwidth(query, bundle)
    folder = bundle.folder
    layers = read_layer_curves(folder, query.model, query.tp_size)
    if bandwidth_gbps:
        _check_unit(query, bundle, layers, bandwidth_gbps)
    skew_file = folder / "skew_fit.csv"
    skew = read_skew(skew_file) if skew_file.is_file() else None
    kv_bytes = kv_bytes_per_token(query.model, query.tp_size, bundle.kv_bits)
    floor_ns = kv_bytes / bandwidth_gbps if bandwidth_gbps else 0.0
    attention = read_bundle_attention(folder / "attention.csv", skew, floor_ns)
    return BundleLatencyModel(f"bundle:{bundle.key}", layers, attention, bundle.step_overhead_ns)


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


def _check_unit(query: LatencyQuery, bundle: Bundle, layers: SplitCurves, bandwidth_gbps: float) -> None:
    """An LM head far faster than its weights can be read is one given in milliseconds."""
    weights = layer_shape(query.model, "lm_head", query.tp_size).weight_elements * query.weight_bits / 8
    read_ns = weights / bandwidth_gbps
    ns = int(layers.ns("lm_head", np.array([1], dtype=np.int64))[0])
    if ns * IMPOSSIBLE_SPEED < read_ns:
        raise InputError(
            bundle.folder / "per_sequence.csv",
            "time_us",
            f"lm_head of one sequence takes {ns / 1e3:g} us, but reading its weights {read_ns / 1e3:g} us: "
            "are these microseconds?",
        )

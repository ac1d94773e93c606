"""Latencies from the measured kernel rows of the package ``aiconfigurator-core`` (the extra ``silicon``).

The rows of a query are taken out of the package once and kept in a cache (:mod:`llm_profile.silicon_table`);
after that the package is neither imported nor needed. Matrix layers and attention are measured kernels of
vLLM; norms, rope, activation and embedding are estimated, as fused kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile import silicon_table
from llm_profile.experts import Experts, NoExperts
from llm_profile.hardware import Elementwise, Hardware, Memory, PeakTflops
from llm_profile.layer_curve import LayerCurve
from llm_profile.layers import (
    GEMM_LAYERS,
    LAYERS,
    MLP_LAYERS,
    heads_per_rank,
    kv_bytes_per_token,
    layer_shape,
)
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source
from llm_profile.roofline_formulas import Floats, elementwise_ns
from llm_profile.silicon_attention import Geometry, SiliconAttention
from llm_profile.silicon_moe import SiliconExperts
from llm_profile.silicon_rows import FUSED, matrices, read_package
from llm_profile.silicon_systems import SYSTEMS, System
from llm_profile.silicon_table import (
    PACKAGE,
    SiliconTable,
    load_table,
    save_table,
)
from llm_profile.tables_v1 import BANDWIDTH_TOLERANCE

FUSED_KERNELS = Elementwise(fixed_ns=2400, efficiency=0.9, cached_efficiency=2.5, working_set=2.0)
"""Norm, rope, activation and embedding kernels of vLLM."""
_log = logging.getLogger(__name__)


class SiliconLatencyModel:
    """Latencies from measured kernel rows; implements :class:`~llm_profile.protocol.LatencyModel`."""

    step_overhead_ns = 0

    def __init__(self, query: LatencyQuery, table: SiliconTable) -> None:
        system = SYSTEMS[query.hardware]
        key = f"{query.hardware}/{query.model.name}/tp{query.tp_size}"
        self.name = f"silicon:{key} ({table.data_version}, {PACKAGE} {table.package_version})"
        self._curves, self._sources = _gemm_curves(query, table)
        self._formulas = _elementwise(query, system, table.bandwidth_gbps)
        geometry = Geometry(
            *heads_per_rank(query.model, query.tp_size),
            kv_bytes_per_token(query.model, query.tp_size, query.kv_bits),
            table.bandwidth_gbps,
        )
        self._experts: Experts = (
            SiliconExperts(self.name, query, table.experts)
            if table.experts
            else NoExperts(self.name, f"{PACKAGE} has no rows of experts of {query.model.name}")
        )
        self._attention = SiliconAttention(table.prefill, table.decode, system, geometry)

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one dense layer for each of ``tokens``; layers of a fused kernel share its time by width."""
        if layer in self._curves:
            return self._curves[layer].ns(np.asarray(tokens))
        try:
            formula = self._formulas[layer]
        except KeyError:
            raise InputError(self.name, layer, "not a dense layer of this model") from None
        return np.rint(formula(np.asarray(tokens, dtype=np.float64))).astype(np.int64)

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention of a batch, priced request by request."""
        return self._attention.ns(prefill_q, prefill_context, decode_kv)

    def moe_ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of one rank's experts in grouped kernels, as if their tokens were spread evenly."""
        return self._experts.ns(tokens_per_expert)

    def moe_source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """Interpolated or extrapolated."""
        return self._experts.source(tokens_per_expert)

    def source(self, layer: str, tokens: int) -> Source:
        """Measured at measured token counts of a measured matrix; what comes from a formula is estimated."""
        if layer not in self._curves:
            return Source.ESTIMATED
        by_tokens, by_matrix = self._curves[layer].source(tokens), self._sources[layer]
        return max(by_tokens, by_matrix, key=list(Source).index)

    def attention_source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Interpolated, or extrapolated if a chunk, its context or the decodes lie beyond the rows."""
        return self._attention.source(prefill_q, prefill_context, decode_kv)


def _gemm_curves(query: LatencyQuery, table: SiliconTable) -> tuple[dict[str, LayerCurve], dict[str, Source]]:
    """A curve and the provenance of its matrix for each matrix layer."""
    curves: dict[str, LayerCurve] = {}
    sources: dict[str, Source] = {}
    for name, (outputs, _) in matrices(query).items():
        rows = table.gemm[name]
        for layer in FUSED.get(name, (name,)):
            share = layer_shape(query.model, layer, query.tp_size).output_width / outputs
            curves[layer] = LayerCurve(rows.tokens, rows.ns * share)
            sources[layer] = rows.source
    return curves, sources


def _elementwise(
    query: LatencyQuery, system: System, bandwidth_gbps: float
) -> dict[str, Callable[[Floats], Floats]]:
    card = Hardware(
        name=query.hardware,
        source=PACKAGE,
        memory=Memory(bandwidth_gbps=bandwidth_gbps, size_gb=1),
        peak_tflops=PeakTflops(fp16=1),
        cache_mb=system.cache_mb,
    )

    def formula(layer: str) -> Callable[[Floats], Floats]:
        shape = layer_shape(query.model, layer, query.tp_size)
        return lambda tokens: elementwise_ns(
            FUSED_KERNELS, card, shape, tokens, bandwidth_gbps=bandwidth_gbps, bits=query.weight_bits
        )

    skipped = GEMM_LAYERS | {"attn"} | (set(MLP_LAYERS) if query.model.is_moe else set())
    return {layer: formula(layer) for layer in LAYERS if layer not in skipped}


def open_silicon(query: LatencyQuery) -> SiliconLatencyModel:
    """Open the rows of ``query``; :class:`NoLatencyError` if the package does not have them or is not there."""
    if query.hardware not in SYSTEMS:
        raise NoLatencyError(
            "", "hardware", f"{PACKAGE} has no rows of {query.hardware}; it has {', '.join(SYSTEMS)}"
        )
    if query.model.sliding_window is not None:
        raise NoLatencyError(
            "",
            "sliding_window",
            f"{query.model.sliding_window}: only attention to all tokens is read from {PACKAGE}",
        )
    table = load_table(query)
    if table is None:
        table = _materialise(query)
    wanted = query.mem_bw_gbps
    if wanted and abs(wanted / table.bandwidth_gbps - 1) > BANDWIDTH_TOLERANCE:
        raise NoLatencyError(
            "",
            "mem_bw",
            f"{wanted:g} GB/s: these rows were measured on a card with {table.bandwidth_gbps:g} GB/s",
        )
    return SiliconLatencyModel(query, table)


def known_silicon(query: LatencyQuery) -> list[str]:
    """Hardware names of the package, installed or not."""
    del query
    return sorted(SYSTEMS)


def _materialise(query: LatencyQuery) -> SiliconTable:
    version = silicon_table.installed_version()
    if version is None:
        raise NoLatencyError(
            "", "latency source", f"{PACKAGE} is not installed; install it with ./compile.sh --with silicon"
        )
    try:
        table = read_package(query, version)
    except (ImportError, AttributeError, TypeError) as error:  # a version of another make
        raise NoLatencyError(
            "", "latency source", f"{PACKAGE} {version} cannot be read ({error}); ./compile.sh --with silicon"
        ) from error
    try:
        save_table(query, table)
    except OSError as error:
        _log.warning("silicon tables are not kept: %s: %s", error.filename, error.strerror)
    return table

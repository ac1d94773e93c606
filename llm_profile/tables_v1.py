"""Measured tables in the published layout, ``{profile_dir}/{hardware}/{model}/tp{N}/``.

``layers.csv`` has a row for each layer and token count, ``attention.csv`` (:mod:`llm_profile.attention_csv`)
one for each measured attention shot. Tables answer only for what was measured: 16-bit weights and KV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_csv import read_attention
from llm_profile.attention_v1 import AttentionTable
from llm_profile.experts import ExpertCurves, Experts, NoExperts
from llm_profile.hardware import datasheet_bandwidth_gbps
from llm_profile.layer_curve import LayerCurve
from llm_profile.layers import EXPERT_LAYERS, LAYERS, MLP_LAYERS, kv_bytes_per_token
from llm_profile.layers_csv import is_fused_qkv, read_layer_rows
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery, NoLatencyError, Source
from llm_profile.table_csv import Rows

PROJECT_TABLE_DIR = Path(__file__).resolve().parent / "perf_models"
TABLE_BITS = 16
BANDWIDTH_TOLERANCE = 0.05
"""A cluster config may round a card's bandwidth this much and still mean the measured card."""


class TableLatencyModel:
    """Latencies read from tables; implements :class:`~llm_profile.protocol.LatencyModel`."""

    step_overhead_ns = 0

    def __init__(
        self, name: str, curves: dict[str, LayerCurve], attention: AttentionTable, experts: Experts
    ) -> None:
        self.name = name
        self._curves = curves
        self._attention = attention
        self._experts = experts

    def layer_ns(self, layer: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time of one dense layer for each of ``tokens``; 0 for k_proj and v_proj fused into q_proj."""
        return self._curve(layer).ns(np.asarray(tokens))

    def attention_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of one layer's attention of a batch, priced request by request."""
        return self._attention.ns(prefill_q, prefill_context, decode_kv)

    def moe_ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of one rank's experts, one after the other."""
        return self._experts.ns(tokens_per_expert)

    def moe_source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """The least certain of the experts' layers."""
        return self._experts.source(tokens_per_expert)

    def source(self, layer: str, tokens: int) -> Source:
        """Measured, interpolated or extrapolated."""
        return self._curve(layer).source(tokens)

    def attention_source(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> Source:
        """Interpolated, or extrapolated if a chunk, its context or the decodes lie beyond the table."""
        return self._attention.source(prefill_q, prefill_context, decode_kv)

    def _curve(self, layer: str) -> LayerCurve:
        try:
            return self._curves[layer]
        except KeyError:
            raise InputError(self.name, layer, "the tables have no rows for this layer") from None


def table_dirs(query: LatencyQuery) -> tuple[Path, ...]:
    """Folders searched for tables."""
    if query.profile_dir is not None:
        return (query.profile_dir,)
    return (Path.cwd() / "llm_profile" / "perf_models", PROJECT_TABLE_DIR)


def known_tables(query: LatencyQuery) -> list[str]:
    """Hardware names that have tables of some model."""
    found = (file.relative_to(root).parts[0] for root in table_dirs(query) for file in _layer_files(root))
    return sorted(set(found))


def open_tables(query: LatencyQuery) -> TableLatencyModel:
    """Read the tables of ``query``; :class:`NoLatencyError` if there are none that fit it."""
    key = f"{query.hardware}/{query.model.name}/tp{query.tp_size}"
    folder = next((d / key for d in table_dirs(query) if (d / key / "layers.csv").is_file()), None)
    if folder is None:
        raise NoLatencyError("", "hardware", f"no tables {key}/layers.csv; {_tables_of(query)}")
    bandwidth_gbps = _check_measured_conditions(query, folder)
    file = folder / "layers.csv"
    rows = read_layer_rows(file, query)
    curves = layer_curves(file, rows, query.model)
    floor_ns = _read_floor(query, bandwidth_gbps)
    attention = read_attention(folder, query, prompt_ns=_prompts(rows), floor_ns_per_token=floor_ns)
    name = f"tables:{key}:predicted" if query.predicted_attention else f"tables:{key}"
    return TableLatencyModel(name, curves, attention, _experts(name, curves, query))


def _experts(name: str, curves: Mapping[str, LayerCurve], query: LatencyQuery) -> Experts:
    missing = [layer for layer in EXPERT_LAYERS if layer not in curves]
    if query.expert_tp_size != 1:
        return NoExperts(name, f"were measured whole, not split over {query.expert_tp_size} ranks")
    if not query.model.is_moe or missing:
        return NoExperts(name, f"no rows for {', '.join(missing) or 'experts of a dense model'}")
    return ExpertCurves(curves)


def layer_curves(file: Path, rows: Mapping[str, Rows], model: ModelConfig) -> dict[str, LayerCurve]:
    """A curve for each layer name of the rows of ``layers.csv``.

    Tables without k_proj and v_proj have them fused into q_proj (TPU): both are 0 there. MoE models have no
    gate_proj, up_proj and down_proj. Any other gap is an error.
    """
    curves = {name: LayerCurve(of.keys[:, 0], of.ns) for name, of in rows.items()}
    if is_fused_qkv(rows):
        last = np.array([1, rows["q_proj"].keys[-1, 0]], dtype=np.int64)
        curves["k_proj"] = curves["v_proj"] = LayerCurve(last, np.zeros(2))
    optional = {"attn"} | (set(MLP_LAYERS) if model.is_moe else set())
    missing = [layer for layer in LAYERS if layer not in curves and layer not in optional]
    if missing:
        raise InputError(file, "layer_name", f"no rows for {', '.join(missing)}")
    return curves


def _prompts(rows: Mapping[str, Rows]) -> dict[int, float]:
    """``attn`` rows of layers.csv: a whole prompt of n tokens without history, ns by n."""
    return rows["attn"].by_count() if "attn" in rows else {}


def _check_measured_conditions(query: LatencyQuery, folder: Path) -> float | None:
    """Refuse precisions and bandwidths the tables were not measured with; return the card's bandwidth."""
    for field, bits in (("weight_bits", query.weight_bits), ("kv_bits", query.kv_bits)):
        if bits != TABLE_BITS:
            raise NoLatencyError(folder, field, f"{bits}: these tables were measured with {TABLE_BITS} bits")
    measured = datasheet_bandwidth_gbps(query.hardware)
    wanted = query.mem_bw_gbps
    if measured and wanted and abs(wanted / measured - 1) > BANDWIDTH_TOLERANCE:
        raise NoLatencyError(
            folder, "mem_bw", f"{wanted:g} GB/s: these tables were measured on a card with {measured:g} GB/s"
        )
    return measured or wanted


def _read_floor(query: LatencyQuery, bandwidth_gbps: float | None) -> float:
    """Nanoseconds to read the KV of one token once; 0 when the bandwidth is unknown."""
    bytes_per_token = kv_bytes_per_token(query.model, query.tp_size, query.kv_bits)
    return bytes_per_token / bandwidth_gbps if bandwidth_gbps else 0.0


def _tables_of(query: LatencyQuery) -> str:
    roots = table_dirs(query)
    found = sorted(file.relative_to(root).parent.as_posix() for root in roots for file in _layer_files(root))
    return f"found: {', '.join(found) or 'no tables'} (in {', '.join(map(str, roots))})"


def _layer_files(root: Path) -> Iterator[Path]:
    return root.rglob("layers.csv") if root.is_dir() else iter(())

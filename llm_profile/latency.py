"""Choose where latencies come from: the first source that can answer a query, or the one asked for.

A new source is one file with an ``open_*`` and a ``known_*`` function, and one line in :data:`SOURCES`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from astra_sim.input_error import InputError
from llm_profile.bundle import known_bundles, open_bundle
from llm_profile.layers import check_tp_size, layers_beyond_tables, model_layers
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyModel, LatencyQuery, NoLatencyError, Source
from llm_profile.roofline import known_descriptions, open_roofline
from llm_profile.silicon import known_silicon, open_silicon
from llm_profile.tables_v1 import known_tables, open_tables

__all__ = [
    "SOURCES",
    "LatencyModel",
    "LatencyQuery",
    "LatencySource",
    "NoLatencyError",
    "Source",
    "check_serves",
    "open_latency_model",
]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatencySource:
    """One way to get latencies."""

    open: Callable[[LatencyQuery], LatencyModel]
    """Open the model of a query; :class:`NoLatencyError` says why there is none, others what is broken."""
    known: Callable[[LatencyQuery], list[str]]
    """Hardware names this source has anything for."""


SOURCES: Mapping[str, LatencySource] = MappingProxyType(
    {
        "tables": LatencySource(open_tables, known_tables),
        "bundle": LatencySource(open_bundle, known_bundles),
        "silicon": LatencySource(open_silicon, known_silicon),
        "calibrated": LatencySource(open_roofline, known_descriptions),
    }
)
"""Sources by name, most trusted first."""
DESCRIPTIONS = "calibrated"
"""The source that prices layers by formula, whatever they are."""
PREDICTED = "tables"
"""The source whose attention can come from a predictor (``--enable-attn-prediction``)."""


def open_latency_model(query: LatencyQuery, source: str = "auto") -> LatencyModel:
    """Open the latencies of ``query`` from ``source``: ``auto`` (the first that serves it) or one by name.

    ``auto`` passes over what :func:`check_serves` refuses, with a warning. A source that is named is opened as
    it is; the caller may want a part of it only.
    """
    check_tp_size(query.model, query.tp_size)
    if source != "auto" and source not in SOURCES:
        names = ", ".join(["auto", *SOURCES])
        raise InputError("", "latency source", f"{source!r} is unknown; use one of {names}")
    if query.profile_dir is not None and not query.profile_dir.is_dir():
        raise InputError(query.profile_dir, "", "no such folder of tables")
    if query.predicted_attention and source not in ("auto", PREDICTED):
        raise InputError(
            "", "latency source", f"{source!r} has no attention predictor, only {PREDICTED!r} has"
        )
    names_to_try = list(SOURCES) if source == "auto" else [source]
    if query.predicted_attention:
        names_to_try = [PREDICTED]
    reasons, passed_over = [], []
    for name in names_to_try:
        try:
            _refuse_beyond_tables(name, query.model)
            latency = SOURCES[name].open(query)
        except NoLatencyError as error:
            reasons.append(f"{name}: {error}")
            continue
        try:
            if source == "auto":
                check_serves(latency, query)
        except NoLatencyError as error:
            passed_over.append(str(error))
            continue
        if passed_over:
            _log.warning("latencies from %s, because %s", latency.name, "; ".join(passed_over))
        return latency
    reasons += passed_over
    if query.predicted_attention:
        reasons.append("the attention predictor needs tables")
    known = sorted({hardware for name in names_to_try for hardware in SOURCES[name].known(query)})
    if known and query.hardware not in known:
        raise InputError("", "hardware", f"{query.hardware!r} is unknown; known hardware: {', '.join(known)}")
    raise InputError(
        "", "hardware", f"no latencies of {query.model.name} on {query.hardware}; " + "; ".join(reasons)
    )


def check_serves(latency: LatencyModel, query: LatencyQuery) -> None:
    """Ask for everything that an iteration of ``query`` needs; :class:`NoLatencyError` says what is not there."""
    one = np.ones(1, dtype=np.int64)
    try:
        for layer in model_layers(query.model):
            if layer != "attn":
                latency.layer_ns(layer, one)
        latency.attention_ns(one, one, one)
        if query.model.is_moe:
            latency.moe_ns(np.ones(query.experts_per_rank, dtype=np.int64))
    except InputError as error:
        raise NoLatencyError(error.file, error.field, error.message) from None


def _refuse_beyond_tables(source: str, model: ModelConfig) -> None:
    """Raise :class:`NoLatencyError` if a source of measurements has no layout for layers of the model."""
    beyond = layers_beyond_tables(model)
    if beyond and source != DESCRIPTIONS:
        raise NoLatencyError(
            "", "model_name", f"no tables can hold {', '.join(beyond)} beside the model's other layers"
        )

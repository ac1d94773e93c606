"""Choose where latencies come from: the first source that can answer a query, or the one asked for.

A new source is one file with an ``open_*`` and a ``known_*`` function, and one line in :data:`SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from astra_sim.input_error import InputError

from llm_profile.layers import check_tp_size
from llm_profile.protocol import LatencyModel, LatencyQuery, Source

__all__ = ["SOURCES", "LatencyModel", "LatencyQuery", "Source", "open_latency_model"]


@dataclass(frozen=True)
class LatencySource:
    """One way to get latencies."""

    open: Callable[[LatencyQuery], LatencyModel]
    """Open the model of a query, or raise :class:`InputError`: why it cannot be answered."""
    known: Callable[[LatencyQuery], list[str]]
    """Hardware names this source has anything for."""


SOURCES: dict[str, LatencySource] = {}
"""Sources by name, most trusted first."""


def open_latency_model(query: LatencyQuery, source: str = "auto") -> LatencyModel:
    """Open the latencies of ``query`` from ``source``: ``auto`` or a name of :data:`SOURCES`."""
    check_tp_size(query.model, query.tp_size)
    raise InputError("", "hardware", f"{query.hardware!r} is unknown")

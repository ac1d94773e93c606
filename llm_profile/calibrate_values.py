"""Limits and rounding of fitted coefficients."""

from __future__ import annotations

from typing import Any

NOTHING = 1e-4
LIMITS = {
    "sharpness": (1.0, 16.0),
    "cached_efficiency": (0.0, 4.0),
    "working_set": (0.5, 64.0),
    "tail": (0.0, 1.5),
    "stream_gbps": (0.0, 1e4),
    "lone": (0.1, 1.0),
    "padding": (0.0, 1.0),
    "memory_efficiency": (0.0, 0.99),
    "compute_efficiency": (0.0, 0.99),
}


def within_limits(values: dict[str, Any]) -> dict[str, Any]:
    """Keep coefficients that the data does not determine from running away."""
    return {
        name: min(max(value, LIMITS[name][0]), LIMITS[name][1]) if name in LIMITS else value
        for name, value in values.items()
    }


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Four digits, as descriptions have them; what a fit has driven to nothing is 0."""
    return {name: float(f"{value:.4g}") if value > NOTHING else 0.0 for name, value in values.items()}

"""Cards whose measured kernel rows the package ``aiconfigurator-core`` has, by our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class System:
    """A card: its name in the package, and what its rows do not tell."""

    name: str
    multiprocessors: int
    cache_mb: float
    query_tile: int
    """Query tokens of one head that one thread block of the prefill kernel computes."""
    varlen: bool
    """Whether one kernel computes the prefills and decodes of a mixed batch (FlashAttention 2)."""


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        "A100": System("a100_sxm", 108, 40, query_tile=64, varlen=True),
        "L40S": System("l40s", 142, 96, query_tile=64, varlen=True),
        "RTXPRO6000": System("rtx_pro_6000_server", 188, 128, query_tile=64, varlen=True),
        "H100": System("h100_sxm", 132, 50, query_tile=128, varlen=False),
        "H200": System("h200_sxm", 132, 50, query_tile=128, varlen=False),
        "B200": System("b200_sxm", 148, 126, query_tile=128, varlen=False),
        "B300": System("b300_sxm", 160, 126, query_tile=128, varlen=False),
        "GB200": System("gb200", 148, 126, query_tile=128, varlen=False),
        "GB300": System("gb300", 160, 126, query_tile=128, varlen=False),
    }
)
"""Cards by hardware name; SXM boards where there are several."""

"""Figures that were published about LLMServingSim 2.0 (ISPASS 2026), cited as facts."""

from __future__ import annotations

SOURCE = "LLMServingSim 2.0, ISPASS 2026"
ABSOLUTE_ERRORS_PERCENT = {
    "H100 SD": {"throughput": 1.2, "mean TTFT": 6.7, "mean TPOT": 1.5},
    "H100 MD": {"throughput": 1.6, "mean TTFT": 6.5, "mean TPOT": 1.6},
    "H100 PDD": {"throughput": 1.2, "mean TTFT": 0.8, "mean TPOT": 1.8},
    "H100 SM": {"throughput": 3.8, "mean TTFT": 10.3, "mean TPOT": 0.5},
    "TPU-v6e-1 SD": {"throughput": 0.2, "mean TTFT": 16.8, "mean TPOT": 0.2},
}
"""Its errors against real systems, by scenario and metric; only absolute values were published."""

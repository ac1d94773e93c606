"""BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``, times in seconds.

Requests with no response tokens had failed; they are left out. Described by Wang et al., BurstGPT, 2024.
"""

from __future__ import annotations

from pathlib import Path

from dataset.convert.base import Trace, TraceFormat, csv_rows, time_ns, tokens, trace_of
from dataset.workload import WorkloadRequest

_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
_SECOND_NS = 1e9


def _read(file: Path) -> Trace:
    time, prompt, answer = _COLUMNS
    return trace_of(
        file,
        [
            WorkloadRequest(time_ns(row, time, _SECOND_NS), tokens(row, prompt), tokens(row, answer))
            for row in csv_rows(file, _COLUMNS)
        ],
    )


FORMAT = TraceFormat("burstgpt", "BurstGPT: CSV with " + ",".join(_COLUMNS), _read)

"""Azure LLM inference traces (2023, coding and conversation): ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Times are dates with up to nine digits of a second: ``2023-11-16 18:17:03.9799600``. From the Azure Public
Dataset; described by Patel et al., Splitwise, ISCA 2024.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from dataset.convert.base import Trace, TraceFormat, csv_rows, tokens, trace_of
from dataset.workload import WorkloadRequest
from inference_serving.validation.readers.base import Fields

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?", re.ASCII)


def _read(file: Path) -> Trace:
    time, prompt, answer = _COLUMNS
    return trace_of(
        file,
        [
            WorkloadRequest(_date_ns(row, time), tokens(row, prompt), tokens(row, answer))
            for row in csv_rows(file, _COLUMNS, texts=(time,))
        ],
    )


def _date_ns(row: Fields, name: str) -> int:
    """A date in UTC as ns since 1970; floats would lose digits."""
    text: str = row.record[name]
    if match := _TIME.fullmatch(text):
        seconds, fraction = match.groups()
        try:
            date = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
        except ValueError:  # a 13th month
            pass
        else:
            return round(date.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))
    raise row.error(name, f"{text!r}: must be a time such as 2023-11-16 18:17:03.9799600")


FORMAT = TraceFormat("azure", "Azure LLM inference traces: CSV with " + ",".join(_COLUMNS), _read)

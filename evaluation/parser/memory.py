"""Memory of each instance's NPUs and of each pool of the second tier, over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.parser.log import read_log
from evaluation.rows import Row, interval_rows, series_rows
from inference_serving.validation.readers.series_table import read_columns
from inference_serving.validation.run import FloatArray

SUFFIX = "_mem_mb"
"""MiB, as vLLM's ``nvidia-smi`` columns call them."""
_TIME = "time_s"


def memory_rows(scenario: str, memory_file: Path) -> list[Row]:
    """The highest of each in MiB, and the state at the end of each interval, from a file of ``--memory-series``."""
    ends_s, columns = memory_columns(memory_file, SUFFIX)
    rows = [Row(scenario, f"peak_{name}", float(values.max())) for name, values in columns.items()]
    return rows + [
        row for name, values in columns.items() for row in series_rows(scenario, name, ends_s, values)
    ]


def memory_columns(memory_file: Path, suffix: str) -> tuple[FloatArray, Mapping[str, FloatArray]]:
    """Ends of intervals in s, and the columns whose names end in ``suffix``; raises InputError without any."""
    try:
        header = memory_file.read_text(encoding="utf-8").partition("\n")[0].split("\t")
    except OSError as error:
        raise InputError(memory_file, "", f"cannot be read: {error.strerror}") from error
    names = [name for name in header if name.endswith(suffix) and name != _TIME]
    if not names:
        raise InputError(
            memory_file, "line 1", f"has no column *{suffix}; give a file written with --memory-series"
        )
    ends_s, *columns = read_columns(memory_file, (_TIME, *names))
    return ends_s, dict(zip(names, columns, strict=True))


def logged_memory_rows(scenario: str, log: Path) -> list[Row]:
    """The share of all KV blocks in use in %, by interval of a log, which tells no bytes."""
    return interval_rows(scenario, "kv_cache_percent", read_log(log).intervals, "kv cache")

"""Materialised rows of one model on one card, and the cache folder in which they are kept."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_profile.layers import heads_per_rank
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.silicon_systems import SYSTEMS

PACKAGE = "aiconfigurator-core"
CODE_FILES = ("silicon_table.py", "silicon_rows.py", "silicon_systems.py", "layers.py")
"""Files that decide what a table holds; a change of theirs makes old tables unreadable."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GemmRows:
    """Time of one matrix layer by token count."""

    tokens: Ints
    ns: Floats
    source: Source
    """Measured if the package has rows of this very matrix, else interpolated or extrapolated from others."""


@dataclass(frozen=True)
class SiliconTable:
    """What was taken from the package for one query; times in ns."""

    package_version: str
    data_version: str
    """Engine whose kernels were measured, such as ``vllm 0.24.0``."""
    bandwidth_gbps: float
    gemm: dict[str, GemmRows]
    prefill: Floats
    """Rows (prompt tokens, ns) of one prompt without history."""
    decode: Floats
    """Rows (requests, KV tokens of each request, ns)."""
    experts: dict[int, Floats] = field(default_factory=dict)
    """Rows (tokens of all ranks, ns) of one rank's experts, by how many ranks the experts are spread over."""


def installed_version() -> str | None:
    """Version of the installed package, without importing it."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def cache_dir() -> Path:
    """Folder of materialised tables: ``$LLMSERVINGSIM_CACHE/silicon`` or the user's cache folder."""
    own = os.environ.get("LLMSERVINGSIM_CACHE")
    if own:
        return Path(own) / "silicon"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llmservingsim" / "silicon"


def code_key() -> str:
    """Changes whenever the code that fills a table changes."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in CODE_FILES)).hexdigest()[:12]


def table_files(query: LatencyQuery) -> Iterator[Path]:
    """Where the table of ``query`` may be: of the installed package, or if there is none, of any version."""
    version = installed_version()
    folders = [version] if version else _cached_versions()
    return (cache_dir() / code_key() / folder / _file_name(query) for folder in folders)


def load_table(query: LatencyQuery) -> SiliconTable | None:
    """Read the table of ``query`` from the cache; None if there is none, or a damaged one."""
    for file in table_files(query):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return _from_arrays({name: arrays[name] for name in arrays.files})
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # a cache may lose its content at any time: made again, not an error
    return None


def save_table(query: LatencyQuery, table: SiliconTable) -> None:
    """Write the table of ``query`` at once: readers see the whole file or none."""
    file = cache_dir() / code_key() / table.package_version / _file_name(query)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **_to_arrays(table))
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _cached_versions() -> list[str]:
    folders = (path.name for path in (cache_dir() / code_key()).glob("*") if path.is_dir())
    return sorted(folders, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])[::-1]


def _file_name(query: LatencyQuery) -> str:
    model = query.model
    shape: dict[str, Any] = {
        "heads": heads_per_rank(model, query.tp_size),
        **{
            field: getattr(model, field)
            for field in ("hidden_size", "intermediate_size", "head_dim", "vocab_size", "num_experts")
        },
    }
    if model.is_moe:
        moe = ("moe_intermediate_size", "num_experts_per_tok")
        shape |= {field: getattr(model, field) for field in moe} | {"expert_tp_size": query.expert_tp_size}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:12]
    system = SYSTEMS[query.hardware].name
    return f"{system}-tp{query.tp_size}-w{query.weight_bits}-kv{query.kv_bits}-{digest}.npz"


def _to_arrays(table: SiliconTable) -> dict[str, Any]:
    facts = {
        "package_version": table.package_version,
        "data_version": table.data_version,
        "bandwidth_gbps": table.bandwidth_gbps,
        "gemm": {name: rows.source.value for name, rows in table.gemm.items()},
    }
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    arrays |= {"prefill": table.prefill, "decode": table.decode}
    arrays |= {f"experts.{ranks}": rows for ranks, rows in table.experts.items()}
    for name, rows in table.gemm.items():
        arrays[f"{name}.tokens"], arrays[f"{name}.ns"] = rows.tokens, rows.ns
    return arrays


def _from_arrays(arrays: dict[str, Any]) -> SiliconTable:
    facts = json.loads(str(arrays["facts"]))
    gemm = {
        name: GemmRows(arrays[f"{name}.tokens"], arrays[f"{name}.ns"], Source(source))
        for name, source in facts.pop("gemm").items()
    }
    experts = {
        int(name.removeprefix("experts.")): rows
        for name, rows in arrays.items()
        if name.startswith("experts.")
    }
    return SiliconTable(
        gemm=gemm, prefill=arrays["prefill"], decode=arrays["decode"], experts=experts, **facts
    )

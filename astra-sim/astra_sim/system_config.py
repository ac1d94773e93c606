"""system.json: how NPUs issue nodes and run collectives."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from astra_sim import _engine
from astra_sim.input_error import InputError, read_json_object, validated

MOST_NS = 1 << 53
"""The longest delay that a configuration may name: double counts exactly up to it."""


def _known_algorithm(name: str) -> str:
    _engine.check_algorithm(name)
    return name


_Prefix = Annotated[tuple[str, ...], Field(max_length=1)]
_Algorithms = Annotated[tuple[Annotated[str, AfterValidator(_known_algorithm)], ...], Field(min_length=1)]

_REQUIRED = ("scheduling-policy", "preferred-dataset-splits")
_NO_EFFECT = (
    "boost-mode",
    "intra-dimension-scheduling",
    "inter-dimension-scheduling",
    "trace-enabled",
    "L",
    "o",
    "g",
    "G",
    "local-reduction-delay",
)
_NOT_SUPPORTED = {
    "model-shared-bus": "the shared bus; set endpoint-delay instead",
    "track-local-mem": "tracking of local memory",
}

_KEY_OF_FIELD = {
    "scheduling_policy": "scheduling-policy",
    "endpoint_delay_ns": "endpoint-delay",
    "active_chunks_per_dimension": "active-chunks-per-dimension",
    "preferred_dataset_splits": "preferred-dataset-splits",
    "all_reduce": "all-reduce-implementation",
    "all_gather": "all-gather-implementation",
    "reduce_scatter": "reduce-scatter-implementation",
    "all_to_all": "all-to-all-implementation",
    "all_reduce_custom": "all-reduce-implementation-custom",
    "all_gather_custom": "all-gather-implementation-custom",
    "reduce_scatter_custom": "reduce-scatter-implementation-custom",
    "all_to_all_custom": "all-to-all-implementation-custom",
    "per_node_custom": "per-node-custom-implementation",
    "collective_optimization": "collective-optimization",
    "local_mem_bw_gbps": "local-mem-bw",
    "peak_perf_tflops": "peak-perf",
    "roofline_enabled": "roofline-enabled",
    "replay_only": "replay-only",
}


class SystemConfig(BaseModel):
    """How the NPUs work; field names are those of system.json with units added.

    The algorithm lists have one entry per dimension of the network, or a single ``one...`` for all NPUs as one
    dimension. A custom implementation is the prefix of trace files, one per rank; ``per_node_custom`` is a YAML
    file of ``node id: prefix``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=_KEY_OF_FIELD.__getitem__,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    scheduling_policy: Literal["LIFO", "FIFO", "EXPLICIT"] = "LIFO"
    endpoint_delay_ns: int = Field(default=10, ge=0, le=MOST_NS)
    active_chunks_per_dimension: int = Field(default=1, ge=1, le=1 << 30)
    preferred_dataset_splits: int = Field(default=1, ge=1, le=1 << 20)
    all_reduce: _Algorithms = ("ring",)
    all_gather: _Algorithms = ("ring",)
    reduce_scatter: _Algorithms = ("ring",)
    all_to_all: _Algorithms = ("ring",)
    all_reduce_custom: _Prefix = ()
    all_gather_custom: _Prefix = ()
    reduce_scatter_custom: _Prefix = ()
    all_to_all_custom: _Prefix = ()
    per_node_custom: str | None = None
    collective_optimization: Literal["baseline", "localBWAware"] = "baseline"
    local_mem_bw_gbps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    peak_perf_tflops: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    roofline_enabled: bool = False
    replay_only: bool = False

    @field_validator("endpoint_delay_ns", mode="before")
    @classmethod
    def _cut(cls, value: object) -> object:
        """ASTRA-Sim reads an integer and cuts fractions."""
        return int(value) if isinstance(value, float) and math.isfinite(value) else value


_KEYS = tuple(_KEY_OF_FIELD.values())


def read_system(path: str | Path) -> SystemConfig:
    """Read a system.json; raise InputError naming the field that is wrong, missing or not supported."""
    data = read_json_object(path)
    for key in _REQUIRED:
        if key not in data:
            raise InputError(path, key, "this field is required")
    for key, what in _NOT_SUPPORTED.items():
        if data.get(key):
            raise InputError(path, key, f"{data[key]}: not supported: {what}; remove the key")
    for key in data:
        _check_spelling(path, key)
    return validated(SystemConfig, data, path)


def write_system(path: str | Path, config: SystemConfig) -> None:
    """Write a system.json that ASTRA-Sim reads."""
    data: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    data = {key: value for key, value in data.items() if value != []}
    for key in ("roofline-enabled", "replay-only"):
        data[key] = int(data[key])
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _check_spelling(path: str | Path, key: str) -> None:
    """ASTRA-Sim ignores keys it does not know; so do we, unless one looks like a misspelt one."""
    known = (*_KEYS, *_NO_EFFECT, *_NOT_SUPPORTED)
    if key in known or len(key) < 4:
        return
    close = difflib.get_close_matches(key.replace("_", "-"), _KEYS, n=1, cutoff=0.85)
    if close:
        raise InputError(path, key, f"unknown field; did you mean {close[0]!r}?")

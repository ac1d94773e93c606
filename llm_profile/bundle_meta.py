"""Find the bundle of a query, and check what its ``meta.yaml`` says it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from astra_sim.input_error import InputError, validated
from llm_profile.layers import heads_per_rank
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery, NoLatencyError
from llm_profile.table_csv import MICROSECONDS
from llm_profile.tables_v1 import table_dirs

DEFAULT_BITS = 16
MOST_OVERHEAD_US = 1e5
"""No engine spends a tenth of a second outside of the model; such a number is in nanoseconds."""
_LEVELS = 4
"""Hardware, model, variant and tp, at least (a model's name may have a slash)."""
_FILES = ("dense.csv", "per_sequence.csv", "attention.csv")
_WEIGHT_BITS = {"bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "w8a8": 8, "fp32": 32}
_KV_BITS = {"bfloat16": 16, "float16": 16, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "float32": 32}


class Engine(BaseModel):
    """The engine that was profiled; only what changes an answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kv_cache_dtype: str = "auto"
    hf_overrides: dict[str, object] = {}
    """What was changed in the model's ``config.json``: among others the heads of one rank."""


class Meta(BaseModel):
    """``meta.yaml`` of a variant; all optional, unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    hardware: str | None = None
    model: str | None = None
    variant: str | None = None
    tp_degrees: list[PositiveInt] | None = None
    engine_effective: Engine = Engine()
    step_overhead_us: Annotated[float, Field(ge=0, le=MOST_OVERHEAD_US)] = 0.0
    """Host time of one iteration. Profilers of kernels do not write it; who has measured it may add it."""


@dataclass(frozen=True)
class Bundle:
    """A bundle found: its folder of CSVs, its key below the profile folder, and what it was measured with."""

    folder: Path
    key: str
    kv_bits: int
    step_overhead_ns: int


def find_bundle(query: LatencyQuery) -> Bundle:
    """The bundle of a query; :class:`NoLatencyError` if there is none with its weight and KV bits."""
    wanted = f"{query.hardware}/{query.model.name}"
    refused: list[str] = []
    for root in table_dirs(query):
        for folder in _variants(root / wanted, query.tp_size):
            variant = folder.parent.name
            bits = weight_bits(variant)
            if bits != query.weight_bits:
                refused.append(f"{variant} is not {query.weight_bits}-bit")
                continue
            bundle = _described(query, folder, f"{wanted}/{variant}/{folder.name}")
            if bundle.kv_bits == query.kv_bits:
                return bundle
            refused.append(f"{variant} has {bundle.kv_bits}-bit KV, not {query.kv_bits}-bit")
    key = f"{wanted}/{{variant}}/tp{query.tp_size}"
    reason = "; ".join(refused) or f"found: {_bundles_of(query)}"
    raise NoLatencyError("", "hardware", f"no bundle {key}/dense.csv of {query.weight_bits} bits; {reason}")


def bundle_folders(root: Path) -> Iterator[Path]:
    """Folders ``{hardware}/{model}/{variant}/tp{N}`` of all bundles below ``root``."""
    if root.is_dir():
        folders = (file.parent for file in sorted(root.rglob("dense.csv")))
        yield from (folder for folder in folders if len(folder.relative_to(root).parts) >= _LEVELS)


def weight_bits(variant: str) -> int | None:
    """Bits of a weight that a variant's name tells (``bf16``, ``fp8-kvfp8``), else None."""
    return next((_WEIGHT_BITS[part] for part in re.split(r"[-_.]", variant) if part in _WEIGHT_BITS), None)


def _variants(folder: Path, tp_size: int) -> Iterator[Path]:
    """tp folders with any file of a bundle: a broken one is found too, and is an error."""
    if folder.is_dir():
        for variant in sorted(path for path in folder.iterdir() if path.is_dir()):
            files = (variant / f"tp{tp_size}" / name for name in _FILES)
            if any(file.is_file() for file in files):
                yield variant / f"tp{tp_size}"


def _described(query: LatencyQuery, folder: Path, key: str) -> Bundle:
    variant = folder.parent.name
    file = folder.parent / "meta.yaml"
    meta = _read_meta(file) if file.is_file() else Meta()
    told = {"hardware": query.hardware, "model": query.model.name, "variant": variant}
    for field, expected in told.items():
        got = getattr(meta, field)
        if got not in (None, expected):
            raise InputError(file, field, f"{got!r}, but this is the folder of {expected!r}")
    if meta.tp_degrees is not None and query.tp_size not in meta.tp_degrees:
        degrees = ", ".join(map(str, meta.tp_degrees))
        raise InputError(file, "tp_degrees", f"{degrees}: does not have {query.tp_size}, but {folder} exists")
    _check_heads(query.model, meta, file)
    kv_bits = _kv_bits(variant, meta.engine_effective.kv_cache_dtype)
    return Bundle(folder, key, kv_bits, round(meta.step_overhead_us * MICROSECONDS.ns))


def _check_heads(model: ModelConfig, meta: Meta, file: Path) -> None:
    """The profiled rank must have the heads of this model at one of the profiled tensor-parallel sizes."""
    overrides = meta.engine_effective.hf_overrides
    got = tuple(overrides.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
    if None in got or not meta.tp_degrees:
        return
    fits = {tp: heads_per_rank(model, tp) for tp in meta.tp_degrees}
    if got not in fits.values():
        wanted = ", ".join(f"{heads} of tp{tp}" for tp, heads in fits.items())
        message = f"(num_attention_heads, num_key_value_heads) {got}: {model.name} has {wanted}"
        raise InputError(file, "engine_effective.hf_overrides", message)


def _kv_bits(variant: str, kv_cache_dtype: str) -> int:
    """``auto`` is the model's number format, in which activations are: 16 bits, also with 8-bit weights."""
    named = re.search(r"kv[-_]?(fp8|int8|bf16|fp16)", variant)
    name = named[1] if named else kv_cache_dtype.split("_", maxsplit=1)[0]
    return _KV_BITS.get(name, DEFAULT_BITS)


def _read_meta(file: Path) -> Meta:
    try:
        data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else ""
        raise InputError(file, where, f"not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise InputError(file, "", f"the top level must be a mapping, not {type(data).__name__}")
    return validated(Meta, data, file)


def _bundles_of(query: LatencyQuery) -> str:
    roots = table_dirs(query)
    found = sorted(folder.relative_to(root).as_posix() for root in roots for folder in bundle_folders(root))
    return f"{', '.join(found) or 'no bundles'} (in {', '.join(map(str, roots))})"

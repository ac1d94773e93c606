"""network.yml: dimensions, wiring, bandwidth and latency of the network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from astra_sim import _engine
from astra_sim.input_error import InputError, validated


def _known(name: str) -> str:
    names = _engine.topologies()
    if name not in names:
        raise ValueError(f"{name!r} is not a topology; use one of {', '.join(names)}")
    return name


Wiring = Annotated[str, AfterValidator(_known)]
"""Name of a topology that the engine has."""

_Count = Annotated[int, Field(ge=1)]
_Bandwidth = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Latency = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_MOST_NPUS = 1 << 16

_KEY_OF_FIELD = {
    "topology": "topology",
    "npus_count": "npus_count",
    "bandwidth_gbps": "bandwidth",
    "latency_ns": "latency",
}


class NetworkConfig(BaseModel):
    """The network: one entry per dimension, the first dimension varying fastest in NPU numbers.

    Bandwidth is in GB/s with 1 GB = 2**30 bytes, latency in ns per hop. A dimension of one NPU is allowed.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_KEY_OF_FIELD.__getitem__,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    topology: Annotated[tuple[Wiring, ...], Field(min_length=1, max_length=4)]
    npus_count: tuple[_Count, ...]
    bandwidth_gbps: tuple[_Bandwidth, ...]
    latency_ns: tuple[_Latency, ...]

    @classmethod
    def flat(cls, wiring: str, npus: int, bandwidth_gbps: float, latency_ns: float) -> Self:
        """Make a network of one dimension."""
        return cls(
            topology=(wiring,), npus_count=(npus,), bandwidth_gbps=(bandwidth_gbps,), latency_ns=(latency_ns,)
        )

    @property
    def npu_total(self) -> int:
        """Number of NPUs."""
        return math.prod(self.npus_count)

    @model_validator(mode="after")
    def _same_lengths(self) -> Self:
        dimensions = len(self.topology)
        for name, values in (
            ("npus_count", self.npus_count),
            ("bandwidth", self.bandwidth_gbps),
            ("latency", self.latency_ns),
        ):
            if len(values) != dimensions:
                raise ValueError(
                    f"{name} has {len(values)} entries, topology has {dimensions}; give one per dimension"
                )
        if self.npu_total > _MOST_NPUS:
            raise ValueError(f"npus_count makes {self.npu_total} NPUs; at most {_MOST_NPUS} are simulated")
        return self


def read_network(path: str | Path) -> NetworkConfig:
    """Read a network.yml; raise InputError naming the field that is wrong."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "", "no such file") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(path, "", f"cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(path, "", f"not valid YAML: {' '.join(str(error).split())}") from None
    return validated(NetworkConfig, data, path)


def write_network(path: str | Path, config: NetworkConfig) -> None:
    """Write a network.yml that ASTRA-Sim reads."""
    lines = [f"{key}: [ {', '.join(map(str, value))} ]" for key, value in config.model_dump().items()]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

"""What the sections of a cluster config have in common: strictness, and numbers with limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_LEAST = 1e-6


def _not_tiny(value: float) -> float:
    """Keep times of a run far below 2**63 ns."""
    if value < _LEAST:
        raise ValueError(f"{value!r}: must be at least {_LEAST:g}")
    return value


PositiveNumber = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False), AfterValidator(_not_tiny)]
NonNegativeNumber = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
PositiveCount = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """One JSON object of a config: no unknown field, no conversion, no change afterwards."""

    model_config = ConfigDict(
        defer_build=True, strict=True, extra="forbid", frozen=True, protected_namespaces=()
    )

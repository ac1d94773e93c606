"""Measured profiles in the published layout, as the samples a fit needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_csv import read_measured
from llm_profile.attention_v1 import Points
from llm_profile.model_config import ModelConfig, load_model_config
from llm_profile.protocol import LatencyQuery
from llm_profile.tables_v1 import read_layer_points

Floats = NDArray[np.float64]
PROMPT_STEP = 16
"""Whole prompts are measured at every length; a fit looks at every 16th."""


@dataclass(frozen=True)
class Profile:
    """Measurements of one model and tensor-parallel size."""

    model: ModelConfig
    tp_size: int
    layers: dict[str, dict[int, float]]
    prefill: Points
    decode: Points

    @property
    def key(self) -> str:
        """Folder of the profile below the hardware's."""
        return f"{self.model.name}/tp{self.tp_size}"

    def query(self, hardware: str) -> LatencyQuery:
        """The query this profile answers."""
        return LatencyQuery(hardware, self.model, self.tp_size)

    def prefill_samples(self) -> tuple[Floats, Floats, Floats]:
        """(chunk, context, ns) of the measured prefills."""
        return _columns([(n, c, ns) for n, rows in self.prefill.items() for c, ns in rows.items()])

    def prompt_samples(self) -> tuple[Floats, Floats, Floats]:
        """(prompt, 0, ns) of whole prompts; none for MoE models, whose tables are of another kernel."""
        attn = {} if self.model.is_moe else self.layers.get("attn", {})
        return _columns([(n, 0, ns) for n, ns in attn.items() if n % PROMPT_STEP == 0])

    def decode_samples(self) -> tuple[Floats, Floats, Floats]:
        """(requests, total KV, ns) of the measured decodes."""
        return _columns([(n, kv, ns) for n, rows in self.decode.items() for kv, ns in rows.items()])


def _columns(rows: list[tuple[int, int, float]]) -> tuple[Floats, Floats, Floats]:
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def read_profiles(folder: Path, hardware: str) -> list[Profile]:
    """Every profile below ``folder/hardware`` whose model is known."""
    profiles = []
    for file in sorted((folder / hardware).rglob("layers.csv")):
        tp_size = int(file.parent.name.removeprefix("tp"))
        name = file.parent.parent.relative_to(folder / hardware).as_posix()
        model = load_model_config(name)
        attention = file.parent / "attention.csv"
        prefill, decode = read_measured(attention, model, tp_size) if attention.is_file() else ({}, {})
        layers = {layer: dict(points) for layer, points in read_layer_points(file, tp_size).items()}
        profiles.append(Profile(model, tp_size, layers, prefill, decode))
    if not profiles:
        raise InputError(folder / hardware, "", "no tables ({model}/tp{N}/layers.csv) here")
    return profiles

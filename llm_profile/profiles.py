"""Measured profiles in the published layout, as the samples a fit needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.attention_csv import read_measured
from llm_profile.attention_v1 import Points
from llm_profile.bundle_moe import moe_file, read_moe_rows
from llm_profile.bundle_skew import read_uneven
from llm_profile.calibrate_bundles import Batch, read_bundle
from llm_profile.layers import EXPERT_LAYERS, GATE_UP_LAYERS, QKV_LAYERS
from llm_profile.layers_csv import read_layer_rows
from llm_profile.model_config import ModelConfig, load_model_config
from llm_profile.protocol import LatencyQuery

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
    experts: Floats = field(default_factory=lambda: np.empty((0, 3)))
    """Rows (tokens of each expert, experts, ns) of experts that got equally many tokens."""
    mixed: Floats = field(default_factory=lambda: np.empty((5, 0)))
    """Batches of a prefill and decodes: chunk, context, decodes, KV of each, ns; shape [5, batches]."""
    uneven: Floats = field(default_factory=lambda: np.empty((5, 0)))
    """Uneven decode batches, see :func:`~llm_profile.bundle_skew.read_uneven`; shape [5, batches]."""

    @property
    def key(self) -> str:
        """Folder of the profile below the hardware's."""
        return f"{self.model.name}/tp{self.tp_size}"

    def query(self, hardware: str) -> LatencyQuery:
        """The query this profile answers."""
        return LatencyQuery(hardware, self.model, self.tp_size)

    @property
    def fused_qkv(self) -> bool:
        """Whether the rows of q_proj are q, k and v in one kernel."""
        return "k_proj" not in self.layers

    @property
    def fused_gate_up(self) -> bool:
        """Whether the rows of gate_proj are gate and up in one kernel."""
        return "up_proj" not in self.layers

    @property
    def fused_activation(self) -> bool:
        """Whether the activation has no time of its own (one row at most)."""
        return len(self.layers.get("act_fn", {})) <= 1

    def kernels(self) -> list[tuple[tuple[str, ...], dict[int, float]]]:
        """(layers, ns by tokens) of everything that was measured as one.

        The TPU compiler computes up with down below a token count: up_proj has no rows there.
        """
        kernels: list[tuple[tuple[str, ...], dict[int, float]]] = []
        up = self.layers.get("up_proj", {})
        for layer, points in self.layers.items():
            if layer == "attn" or (layer == "act_fn" and self.fused_activation):
                continue
            names: tuple[str, ...] = (layer,)
            if layer == "q_proj" and self.fused_qkv:
                names = QKV_LAYERS
            elif layer == "gate_proj" and self.fused_gate_up:
                names = GATE_UP_LAYERS
            both = {n: t for n, t in points.items() if layer == "down_proj" and up and n < min(up)}
            if both:
                kernels.append((("up_proj", "down_proj"), both))
            kernels.append((names, {n: t for n, t in points.items() if n not in both}))
        return kernels

    def block_ns(self, layers: Collection[str]) -> dict[int, float]:
        """Time of ``layers`` together, by tokens, where all of them were measured."""
        measured = [(names, points) for names, points in self.kernels() if set(names) <= set(layers)]
        everything = {name for names, _ in measured for name in names}
        counts = sorted(set().union(*(points for _, points in measured)))
        sums = {}
        for n in counts:
            here = [(names, points[n]) for names, points in measured if n in points]
            if {name for names, _ in here for name in names} == everything:
                sums[n] = sum(ns for _, ns in here)
        return sums

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
    """Every profile below ``folder/hardware`` whose model is known, of either layout."""
    root = folder / hardware
    profiles = []
    for file in sorted([*root.rglob("layers.csv"), *root.rglob("dense.csv")]):
        mixed: list[Batch] = []
        tp_size = int(file.parent.name.removeprefix("tp"))
        if file.name == "dense.csv":
            model = load_model_config(file.parents[2].relative_to(root).as_posix())
            query = LatencyQuery(hardware, model, tp_size)
            layers, prefill, decode, mixed = read_bundle(file.parent, query)
        else:
            model = load_model_config(file.parents[1].relative_to(root).as_posix())
            query = LatencyQuery(hardware, model, tp_size)
            attention = file.parent / "attention.csv"
            prefill, decode = read_measured(attention, query) if attention.is_file() else ({}, {})
            rows = read_layer_rows(file, query)
            layers = {layer: of.by_count() for layer, of in rows.items()}
        experts = _bundle_experts(file.parent, query) if file.name == "dense.csv" else _table_experts(layers)
        batches = np.array(mixed, dtype=np.float64).reshape(-1, 5).T
        skew = file.with_name("skew.csv")
        uneven = read_uneven(skew) if skew.is_file() else np.empty((5, 0))
        profiles.append(Profile(model, tp_size, layers, prefill, decode, experts, batches, uneven))
    if not profiles:
        raise InputError(root, "", "no tables ({model}/tp{N}/layers.csv) here")
    return profiles


def _table_experts(layers: dict[str, dict[int, float]]) -> Floats:
    """Experts of the published layout: one at a time."""
    if not set(EXPERT_LAYERS) <= set(layers):
        return np.zeros((0, 3))
    counts = sorted(set.intersection(*(set(layers[layer]) for layer in EXPERT_LAYERS)))
    return np.array(
        [(n, 1, sum(layers[layer][n] for layer in EXPERT_LAYERS)) for n in counts], dtype=np.float64
    )


def _bundle_experts(folder: Path, query: LatencyQuery) -> Floats:
    file = folder / "moe.csv"
    if not query.model.is_moe or not file.is_file() or moe_file(folder, query.expert_tp_size) != file:
        return np.zeros((0, 3))
    rows = read_moe_rows(file, query)
    tokens, experts = rows.keys.T
    return np.stack([tokens * query.model.num_experts_per_tok / experts, experts, rows.ns], axis=1)

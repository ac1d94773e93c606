"""Where an instance keeps its weights and KV: on its NPUs, in its node's host memory, or on a CXL device.

A config's ``placement`` has a ``default``, rules for ``blocks`` (transformer blocks, "0-3" or "8,9,10") and for
``layers`` by name; a later kind of rule overrides an earlier one, and what an entry leaves out is the default's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

from pydantic import Field

from inference_serving.schema_base import Section
from llm_profile.layers import block_rows
from llm_profile.model_config import ModelConfig

_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
HOST_MEMORY = 0
"""Position of the nodes' host memories among the engine's memories; CXL devices follow."""


class Place(NamedTuple):
    """A memory that can hold weights or KV: ``npu``, ``cpu`` (host memory of the node) or device K of ``cxl``."""

    kind: str
    device: int = 0

    def __str__(self) -> str:
        return f"cxl:{self.device}" if self.kind == "cxl" else self.kind

    def column(self, node_id: int) -> str:
        """How the published text trace names it."""
        return {"npu": "LOCAL", "cpu": f"REMOTE:{node_id}"}.get(self.kind, f"CXL:{self.device}")


NPU, CPU = Place("npu"), Place("cpu")

PlaceName = Annotated[str, Field(pattern=r"^(npu|cpu|cxl:[0-9]{1,4})$")]


def place_of(name: str) -> Place:
    """The place that a config names; the schema has checked the name."""
    kind, _, device = name.partition(":")
    return Place(kind, int(device or 0))


class PlacementEntry(Section):
    """Places of some part of the model; None: as the default says."""

    weights: PlaceName | None = None
    kv_loc: PlaceName | None = None
    kv_evict_loc: PlaceName | None = None


class BlockEntry(PlacementEntry):
    """Places of some transformer blocks."""

    blocks: str


class PlacementSection(Section):
    """An instance's ``placement``; ``prefetch_blocks`` (ours) says how many blocks ahead weights are loaded."""

    default: PlacementEntry = PlacementEntry()
    blocks: list[BlockEntry] = Field(default_factory=list)
    layers: dict[str, PlacementEntry] = Field(default_factory=dict)
    prefetch_blocks: Annotated[int, Field(ge=0, le=10**6)] = 1


class BlockPlaces(NamedTuple):
    """Where one block's KV is while its request runs, and where it goes when the request is preempted."""

    kv: Place
    evicted_kv: Place


@dataclass(frozen=True)
class Placement:
    """The places of every layer of a model with ``len(blocks)`` transformer blocks.

    ``weights`` has one entry a row: embedding, every block's layers, final_layernorm, lm_head. Weights that are
    elsewhere, and with ``loads_local`` those on the NPU too, are loaded in each iteration, at most
    ``prefetch_blocks`` blocks ahead of the block that computes.
    """

    weights: tuple[Place, ...]
    blocks: tuple[BlockPlaces, ...]
    prefetch_blocks: int = 1
    loads_local: bool = False
    cxl_devices: int = 0

    @cached_property
    def is_plain(self) -> bool:
        """Whether everything stays on the NPU, and nothing is loaded."""
        return self.keeps_kv and self.keeps_weights

    @cached_property
    def keeps_kv(self) -> bool:
        """Whether all KV of running requests is on the NPU."""
        return all(block.kv == NPU for block in self.blocks)

    @cached_property
    def keeps_weights(self) -> bool:
        """Whether all weights are on the NPU, and none are loaded."""
        return not self.loads_local and all(place == NPU for place in self.weights)

    @cached_property
    def swaps(self) -> bool:
        """Whether a preempted request's KV is kept elsewhere instead of computed again."""
        return all(block.evicted_kv != NPU for block in self.blocks)

    def loads(self, place: Place) -> bool:
        """Whether weights at a place have to be loaded."""
        return place != NPU or self.loads_local

    def memory_of(self, place: Place) -> int:
        """Position of a place among the engine's memories: host, CXL devices, the NPUs' own."""
        return {"cpu": HOST_MEMORY, "cxl": 1 + place.device, "npu": 1 + self.cxl_devices}[place.kind]

    def all_places(self) -> set[Place]:
        """Every place that is named."""
        kv = {place for block in self.blocks for place in block}
        return kv.union(self.weights)


def row_layers(model: ModelConfig) -> Iterator[tuple[int | None, str]]:
    """(block, layer) of every row of an iteration, in order; layers outside the blocks have block None."""
    yield None, "embedding"
    for block in range(model.num_hidden_layers):
        for layer in block_rows(model, block):
            yield block, layer
    yield None, "final_layernorm"
    yield None, "lm_head"


def all_on_npu(model: ModelConfig, *, loads_local: bool = False, cxl_devices: int = 0) -> Placement:
    """The placement of an instance that has none."""
    rows = sum(1 for _ in row_layers(model))
    return Placement(
        (NPU,) * rows,
        (BlockPlaces(NPU, NPU),) * model.num_hidden_layers,
        loads_local=loads_local,
        cxl_devices=cxl_devices,
    )


def resolve(
    section: PlacementSection,
    model: ModelConfig,
    *,
    loads_local: bool = False,
    cxl_devices: int = 0,
) -> Placement:
    """Apply a config's rules to a model; raises ValueError naming the rule that does not fit.

    With tied embeddings, lm_head has the embedding's weights, and so their place.
    """
    blocks = model.num_hidden_layers
    rules = _block_rules(section, blocks)
    known = dict.fromkeys(layer for _, layer in row_layers(model))
    unknown = sorted(set(section.layers) - set(known))
    if unknown:
        raise ValueError(f"layers: {unknown[0]!r} is not a layer; layers are {', '.join(known)}")
    default = section.default

    def place(field: str, block: int | None, layer: str) -> Place:
        for entry in (section.layers.get(layer), rules.get(block) if block is not None else None, default):
            if entry is not None and (name := getattr(entry, field)) is not None:
                return place_of(name)
        return NPU

    weights = tuple(
        place("weights", block, "embedding" if model.tie_word_embeddings and layer == "lm_head" else layer)
        for block, layer in row_layers(model)
    )
    kv = tuple(
        BlockPlaces(place("kv_loc", block, "attn"), place("kv_evict_loc", block, "attn"))
        for block in range(blocks)
    )
    placement = Placement(weights, kv, section.prefetch_blocks, loads_local, cxl_devices)
    evicted = {block.evicted_kv for block in kv}
    if NPU in evicted and len(evicted) > 1:
        raise ValueError(
            "kv_evict_loc: npu for some blocks and not for others; KV is kept whole, or computed again"
        )
    for named in sorted(placement.all_places()):
        if named.kind == "cxl" and named.device >= cxl_devices:
            have = f"cxl_mem has devices 0 to {cxl_devices - 1}" if cxl_devices else "there is no cxl_mem"
            raise ValueError(f"{named}: {have}")
    return placement


def _block_rules(section: PlacementSection, blocks: int) -> Mapping[int | None, PlacementEntry]:
    rules: dict[int | None, PlacementEntry] = {}
    for index, entry in enumerate(section.blocks):
        for part in entry.blocks.split(","):
            match = _RANGE.fullmatch(part.strip())
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if last < first:
                raise ValueError(
                    f'blocks[{index}].blocks: {entry.blocks!r}: give block numbers, "0-3" or "8,9,10"'
                )
            if last >= blocks:
                raise ValueError(
                    f"blocks[{index}].blocks: {entry.blocks!r}: the model has blocks 0 to {blocks - 1}"
                )
            for block in range(first, last + 1):
                if block in rules:
                    raise ValueError(f"blocks[{index}].blocks: block {block} has a rule already")
                rules[block] = entry
    return rules

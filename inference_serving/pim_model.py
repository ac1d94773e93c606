"""Decode attention in memory: how long it takes, and which channels have which requests' KV.

One request's attention on one channel takes ``slope * L + fixed`` ns for a context of L tokens; K/V heads are
independent, so they run side by side on as many channels. See docs/pim.md for where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_serving.pim.device import PimDevice
from inference_serving.request import Int64Array
from llm_profile.layers import heads_per_rank
from llm_profile.model_config import ModelConfig

REFERENCE_TOKEN_BYTES = 2 * 8 * 128 * 2
"""K and V of a token in one layer of Llama-3.1-8B (8 K/V heads of 128 elements of 16 bits), which the lines are for."""


MOST_CHANNELS = 4096
"""Every channel is a node of the graph, in every block."""


class AttentionLine(NamedTuple):
    """Attention of one request of Llama-3.1-8B on one channel: ns for each token of its context, and ns at least."""

    slope_ns: float
    fixed_ns: float


PUBLISHED_LINES: Mapping[str, AttentionLine] = MappingProxyType(
    {
        "DDR4_8GB_3200_pim": AttentionLine(333.2538, 30675.2739),
        "LPDDR4X_2GB_4266_pim": AttentionLine(432.4458, 33918.1734),
        "LPDDR5_2GB_6400_pim": AttentionLine(282.4338, 15996.7018),
        "HBM2_1GB_2000_pim": AttentionLine(242.0548, 14513.5015),
    }
)
"""Lines of LLMServingSim 2.0's four devices."""
FIXED_TOKENS = 71.8
"""Fixed part of a device without a line, in tokens: the mean of the four published ones (56.6 to 92.0)."""


def derived_line(device: PimDevice) -> AttentionLine:
    """The line of a device that nobody has measured: it reads the KV row by row inside one bank group.

    A row takes tRCD + bursts * tCCD_L + tRP cycles, and what a bank reads need not cross the bus.
    """
    slope_ns = device.row_ns * REFERENCE_TOKEN_BYTES / device.row_bytes
    return AttentionLine(slope_ns, FIXED_TOKENS * slope_ns)


def attention_line(device: PimDevice) -> tuple[AttentionLine, str]:
    """The line of the device's file (``measured``), else the one ``published`` for its name, else ``derived``."""
    if device.measured is not None:
        times = device.measured
        return AttentionLine(times.attention_ns_per_token, times.attention_fixed_ns), "measured"
    if device.name in PUBLISHED_LINES:
        return PUBLISHED_LINES[device.name], "published"
    return derived_line(device), "derived"


@dataclass(frozen=True, slots=True)
class PimSpec:
    """The memory in which an instance's decode attention runs: ``channels`` equal channels of its node.

    ``unison`` neighbouring channels always work alike (:func:`channels_in_unison`), so that one node of the graph, at
    the first of them, stands for all.
    """

    device: PimDevice
    channels: int
    unison: int = 1

    @staticmethod
    def of(device: PimDevice, memory_bytes: int) -> PimSpec:
        """As many channels as make up a host memory; raises ValueError if it is smaller than one."""
        channels = memory_bytes // device.channel_bytes
        if channels > MOST_CHANNELS:
            raise ValueError(
                f"{device.name} has channels of {device.channel_bytes >> 20} MiB, so the memory has {channels}; "
                f"at most {MOST_CHANNELS} are simulated: give less memory or a larger device"
            )
        if not channels:
            raise ValueError(
                f"{device.name} has channels of {device.channel_bytes >> 20} MiB, more than the whole memory "
                f"({memory_bytes >> 20} MiB); give more memory or a smaller device"
            )
        return PimSpec(device, channels)

    def channels_of_rank(self, rank: int, tp_size: int) -> tuple[int, ...]:
        """Channels with the KV of one of ``tp_size`` ranks: ranks share them evenly, each an equal number."""
        share = self.channels // tp_size
        if not share:
            return (rank % self.channels,)
        return tuple(range(rank * share, (rank + 1) * share))

    def facts(self) -> dict[str, str | int]:
        """For reports: the device, how many channels of it, and where its attention times come from."""
        _, source = attention_line(self.device)
        return {"device": self.device.name, "channels": self.channels, "attention_times": source}

    def leaders_of_rank(self, rank: int, tp_size: int) -> tuple[int, ...]:
        """Of these, the first of each ``unison``."""
        return self.channels_of_rank(rank, tp_size)[:: self.unison]


def channels_in_unison(pim: PimSpec, users: Iterable[tuple[ModelConfig, int]]) -> int:
    """How many neighbouring channels always have equally many heads of each request, for all (model, TP size) users.

    Groups begin at multiples of the greatest common divisor of a rank's channels and heads, and have consecutive
    heads.
    """
    return gcd(*(gcd(*_channels_and_heads(pim, model, tp_size)) for model, tp_size in users)) or 1


def _channels_and_heads(pim: PimSpec, model: ModelConfig, tp_size: int) -> tuple[int, int]:
    """Channels and K/V heads of one rank."""
    return len(pim.channels_of_rank(0, tp_size)), heads_per_rank(model, tp_size)[1]


class ChannelTimes:
    """Attention times of the channels of one rank; every rank of an instance has the same.

    A request's heads lie on consecutive channels, one head each, from the first channel of its *group*. Groups
    begin wherever one can so that all channels hold equally many heads of equally loaded groups.
    """

    def __init__(self, spec: PimSpec, model: ModelConfig, tp_size: int, kv_bits: int) -> None:
        channels, heads = _channels_and_heads(spec, model, tp_size)
        self.groups = channels // gcd(channels, heads)
        line, _ = attention_line(spec.device)
        share = 2 * model.head_dim * kv_bits / 8 / REFERENCE_TOKEN_BYTES
        self._head_slope_ns, self._head_fixed_ns = line.slope_ns * share, line.fixed_ns * share
        held = np.zeros((self.groups, channels))
        for group in range(self.groups):
            for head in range(heads):
                held[group, (group * heads + head) % channels] += 1
        self._heads_of_group: NDArray[np.float64] = held[:, :: spec.unison]

    def of(self, kv_tokens: Int64Array, groups: Int64Array) -> Int64Array:
        """ns of one layer on each leading channel of a rank, for requests of these contexts and groups."""
        head_ns = self._head_slope_ns * kv_tokens + self._head_fixed_ns
        of_group = np.bincount(groups, weights=head_ns, minlength=self.groups)
        times: Int64Array = np.rint(of_group @ self._heads_of_group).astype(np.int64)
        return times

    def heads(self, groups: Int64Array) -> Int64Array:
        """K/V heads of requests of these groups on each leading channel of a rank."""
        counts = np.bincount(groups, minlength=self.groups) @ self._heads_of_group
        heads: Int64Array = counts.astype(np.int64)
        return heads

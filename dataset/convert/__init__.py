"""Recorded traces as workloads. A new format is a file with a ``FORMAT`` here, and its place in ``FORMATS``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dataset.convert import azure, burstgpt, mooncake, vllm
from dataset.convert.base import TraceFormat

FORMATS: Mapping[str, TraceFormat] = MappingProxyType(
    {one.name: one for one in (azure.FORMAT, mooncake.FORMAT, burstgpt.FORMAT, vllm.FORMAT)}
)

"""The numbers of offloaded attention in one instance's traces: channel times, and bytes that go there and back."""

from __future__ import annotations

import sys

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.pim_model import ChannelTimes, PimSpec
from inference_serving.request import Batch, Int64Array
from inference_serving.trace_shape import AttentionSplit, TraceShape
from llm_profile.layers import heads_per_rank, kv_bytes_per_token


class OffloadedAttention:
    """Prices the attention of one instance's requests that run a single token; the others stay on the NPU.

    A row that runs one token is one query against its KV, whether it decodes or is at the last token of its prompt.
    With a sliding window, a query reads no more than the window.
    """

    def __init__(self, instance: InstanceSpec, pim: PimSpec) -> None:
        model, precision = instance.model, instance.precision
        self.times = ChannelTimes(pim, model, instance.tp_size, precision.kv_bits)
        heads, _ = heads_per_rank(model, instance.tp_size)
        self._query_bytes = heads * model.head_dim * precision.weight_bits // 8
        self._window = model.sliding_window or sys.maxsize
        self._kv_bytes = kv_bytes_per_token(model, instance.tp_size, precision.kv_bits)

    @staticmethod
    def split(batch: Batch) -> AttentionSplit:
        """Where the attention of a batch runs."""
        return AttentionSplit(
            on_npu=bool(np.count_nonzero(batch.grants > 1)),
            in_memory=bool(np.count_nonzero(batch.grants == 1)),
        )

    def work(self, batch: Batch) -> tuple[Int64Array, Int64Array]:
        """One layer on each leading channel of a rank: ns, and K/V heads of all requests there."""
        single = batch.grants == 1
        if batch.kv_groups is None:  # a prediction of a batch of nobody: spread evenly
            groups = np.arange(np.count_nonzero(single)) % self.times.groups
        else:
            groups = batch.kv_groups[single]
        read = np.minimum(batch.decode_kv(), self._window)
        return self.times.of(read, groups), self.times.heads(groups)

    def add_sizes(self, sizes: Int64Array, shape: TraceShape, batch: Batch) -> None:
        """Enter what each NPU moves in a layer.

        Single tokens: query and new KV there, result back. Chunks of prompts: the KV of what is before them back
        here, and their own there.
        """
        if shape.pim_rows is not None:
            there, back = shape.pim_rows
            tokens = int(np.count_nonzero(batch.grants == 1))
            sizes[there.slot] = tokens * (self._query_bytes + self._kv_bytes)
            sizes[back.slot] = tokens * self._query_bytes
        if shape.streams_kv is not None:
            read, write = shape.streams_kv
            chunks = batch.grants > 1
            before = np.minimum(batch.context, self._window - 1)  # of the chunk's first token
            sizes[read.slot] = self._kv_bytes * int(before.dot(chunks))
            sizes[write.slot] = self._kv_bytes * int(batch.grants.dot(chunks))


def offloaded_attention(instance: InstanceSpec) -> OffloadedAttention | None:
    """The attention that an instance does not run on its NPUs; None if it has no such memory."""
    return None if instance.pim is None else OffloadedAttention(instance, instance.pim)

"""Attention of one layer of one rank from a hardware description: prefills, decodes, and batches of both.

Bandwidths in GB/s are bytes a nanosecond, and peaks in TFLOPS are 1e3 flops a nanosecond. The coefficients are
documented in :mod:`llm_profile.hardware`.

FlashAttention 2, the kernel of cards with ``shared_attention_kernel``, packs the query heads of a K/V head and splits
the keys of a decode only without a sliding window, however long that is (``seqlenq_ngroups_swapped`` in its
``flash_api.cpp``). With one, every query head of a decode walks its keys alone.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_profile.hardware import Coefficients, Hardware, peak_flops_per_ns
from llm_profile.layers import heads_per_rank, kv_bytes_per_token
from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery
from llm_profile.split_decode import SplitDecode

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)
KEY_BLOCK = 64
"""Keys that a tile of a kernel for prefills and decodes loads at a time."""


class AttentionRoofline:
    """Attention of one layer of one rank."""

    def __init__(
        self, card: Hardware, coefficients: Coefficients, query: LatencyQuery, bandwidth_gbps: float
    ) -> None:
        prefill, decode = coefficients.prefill, coefficients.decode
        heads, kv_heads = heads_per_rank(query.model, query.tp_size)
        model = query.model
        head_bytes = model.kv_head_elements * query.kv_bits / 8
        peak = peak_flops_per_ns(card, 32 if query.weight_bits == 32 else 16)
        self._prefill = prefill
        self._decode = decode
        self._mixed = coefficients.mixed
        self._heads = heads
        self._group = heads / kv_heads
        self._multiprocessors = card.multiprocessors
        self._shared_kernel = card.shared_attention_kernel
        self._window = model.sliding_window
        self._unpacked = decodes_unpacked(card, model)
        self._cached_tokens = card.cache_mb * 1e6 / head_bytes
        pair_flops = 2 * (model.head_dim + model.value_dim)
        self._key_ns = pair_flops * prefill.tile_rows * card.multiprocessors / (peak * prefill.efficiency)
        self._decode_stream_ns = head_bytes / decode.stream_gbps
        self._request_ns = decode.head_ns * heads
        read_heads = kv_heads if decode.gqa_packed or model.is_mla else heads
        self._kv_token_ns = read_heads * head_bytes / (bandwidth_gbps * decode.efficiency)
        self._cold_token_ns = kv_heads * head_bytes * decode.cold / bandwidth_gbps
        self._cold_tokens = card.cache_mb * 1e6 / (kv_heads * head_bytes)
        self._split = decode.splits and SplitDecode(
            decode.splits,
            card.multiprocessors,
            kv_heads,
            model.head_dim,
            self._decode_stream_ns,
            decode.sharpness,
        )
        self.floor_ns = kv_bytes_per_token(query.model, query.tp_size, query.kv_bits) / bandwidth_gbps
        self._read_ns = self.floor_ns / (self._mixed.memory_efficiency or min(1.0, decode.efficiency))

    def prefill_ns(self, n: Number, context: Number) -> Number:
        """Time of a chunk of ``n`` tokens on ``context`` cached ones, without fixed cost and read floor."""
        p = self._prefill
        waves = -(-self._tiles(n) // self._multiprocessors)
        time: Number = self._key_ns * ((1 + (waves - 1) * p.crowding) * (context + n / 2) + p.tail * n)
        return time

    def _tiles(self, n: Number) -> Number:
        """Tiles of a chunk, over all heads."""
        tiles: Number = -(-n // self._prefill.tile_rows) * self._heads
        return tiles

    def decode_ns(self, requests: Number, block_kv: Number, longest_kv: Number) -> Number:
        """Time of a decode batch without fixed cost and read floor; ``block_kv`` sums rounded-up lengths."""
        heads_ns = requests * self._request_ns
        read_ns = block_kv * self._kv_token_ns
        if self._cold_token_ns:
            read_ns = read_ns + _least(block_kv, self._cold_tokens) * self._cold_token_ns
        if self._split:
            return heads_ns + self._split.ns(requests, read_ns, block_kv / requests, longest_kv)
        p = self._decode.sharpness
        longest = longest_kv * self._decode_stream_ns
        time: Number = ((heads_ns + read_ns) ** p + longest**p) ** (1 / p)
        return time

    def ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        """Time of a batch: every prefill alone, all decodes together, the larger fixed cost once.

        Beside a prefill, decodes run in its kernel where it serves both (:meth:`mixed_ns`).
        """
        if self._window is not None:
            decode_kv = np.minimum(decode_kv, self._window)
            prefill_context = np.minimum(prefill_context, np.maximum(self._window - prefill_q // 2, 0))
        if prefill_q.size and decode_kv.size and self._shared_kernel:
            return self._shared_ns(prefill_q, prefill_context, decode_kv)
        fixed = total = 0.0
        if prefill_q.size:
            fixed = self._prefill.fixed_ns
            total = self._prefills_ns(prefill_q, prefill_context)
        if decode_kv.size:
            fixed = max(fixed, self._decode.fixed_ns * (self._decode.lone if decode_kv.size == 1 else 1))
            block_kv = _in_blocks(decode_kv, self._decode.block_tokens)
            longest = int(decode_kv[decode_kv.argmax()])  # a fifth of the time of np.maximum.reduce
            uneven = self._decode.skew * max(longest * decode_kv.size - block_kv, 0)
            decode = self.decode_ns(float(decode_kv.size), block_kv + uneven, longest)
            if self._unpacked:
                decode = self._unpacked_ns(decode_kv, decode)
            total += max(decode, block_kv * self.floor_ns)
        return round(fixed + total)

    def _unpacked_ns(self, decode_kv: NDArray[np.int64], fitted_ns: float) -> float:
        """Time of decodes whose query heads walk their keys alone, without fixed cost.

        That is ``fitted_ns`` where the card's decodes were measured so, else the tiles of :meth:`mixed_ns`; but no
        less than reading keys and values again for every head that does not find them in the cache.
        """
        requests, block_kv = float(decode_kv.size), float(_in_blocks(decode_kv, KEY_BLOCK))
        walked = fitted_ns
        if self._decode.gqa_packed:
            tiles = (requests, requests), (block_kv, float(decode_kv.max()))
            walked = float(self.mixed_ns(0.0, 1.0, 0.0, *tiles))
        return max(walked, block_kv * self._read_ns * float(self._reads(block_kv, requests)))

    def _prefills_ns(self, n: NDArray[np.int64], context: NDArray[np.int64]) -> float:
        total = 0.0
        for tokens, cached in zip(n.tolist(), context.tolist(), strict=True):
            total += max(self.prefill_ns(tokens, cached), (cached + tokens) * self.floor_ns)
        return total

    def _shared_ns(
        self, prefill_q: NDArray[np.int64], prefill_context: NDArray[np.int64], decode_kv: NDArray[np.int64]
    ) -> int:
        tiles = self._tiles(prefill_q.astype(np.float64))
        requests = decode_kv.size + prefill_q.size
        all_tiles = float(tiles.sum())
        time = self.mixed_ns(
            self._prefills_ns(prefill_q, prefill_context),
            all_tiles,
            float(tiles.max()) * requests - all_tiles - self._heads * decode_kv.size,
            (float(decode_kv.size), float(requests)),
            (_in_blocks(decode_kv, KEY_BLOCK), float(decode_kv.max())),
        )
        return round(self._prefill.fixed_ns + time)

    def mixed_ns(
        self,
        prefill_ns: Number,
        prefill_tiles: Number,
        empty_tiles: Number,
        requests: tuple[Number, Number],
        kv: tuple[Number, Number],
    ) -> Number:
        """Time of prefills and decodes in one kernel, without fixed cost.

        ``requests`` are the decodes and all requests, ``kv`` the sum of the decodes' keys and the longest.
        The kernel gives each query head of a decode a tile that walks its keys, as if it were a chunk of one
        token: the keys are not split, and the tiles of all requests share the multiprocessors, one head after
        the other. A decode that starts with the last wave of the prefill ends a walk later.
        """
        decodes, total = requests
        block_kv, longest_kv = kv
        key_ns = self._key_ns * self._mixed.walk
        tile_ns, processors = self._mixed.tile_ns, self._multiprocessors
        walked = self._heads * (block_kv * key_ns + decodes * tile_ns) / processors
        busy = np.maximum(walked, block_kv * self._read_ns * self._reads(block_kv, total))
        empty = empty_tiles * self._mixed.empty_ns / processors
        waves = -(-prefill_tiles // processors)
        last = prefill_ns * (1 - 1 / waves) + longest_kv * key_ns + tile_ns
        time: Number = np.maximum(prefill_ns + empty + busy, last)
        return time

    def _reads(self, block_kv: Number, requests: Number) -> Number:
        """How often the KV of a head is read from memory, for the query heads that share it.

        Heads that run at the same time read it together. The next ones find it in the cache if the whole
        batch's KV of one head has fitted there.
        """
        together = np.maximum(1.0, self._multiprocessors / requests)
        missed = np.clip(block_kv / self._cached_tokens - 0.5, 0.0, 1.0)
        reads: Number = 1 + (self._group - 1) / together * missed
        return reads


def _in_blocks(kv: NDArray[np.int64], block: int) -> int:
    """Sum of lengths, each rounded up to whole blocks."""
    if block == 1:
        return int(np.add.reduce(kv))
    # numpy takes twice as long with a Python int
    return int(np.add.reduce((kv + np.int64(block - 1)) // np.int64(block))) * block


def _least(value: Number, most: float) -> Number:
    """Minimum; numpy takes ten times as long for a single number."""
    least: Number = np.minimum(value, most) if isinstance(value, np.ndarray) else min(value, most)
    return least


def decodes_unpacked(card: Hardware, model: ModelConfig) -> bool:
    """Whether the card's attention kernel gives each query head of a decode a pass of its own over K and V."""
    grouped = model.num_attention_heads > model.num_key_value_heads
    return card.shared_attention_kernel and model.sliding_window is not None and grouped

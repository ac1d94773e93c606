"""Decode attention of kernels that split the keys of a request over the card (flash decoding, FlashAttention 2).

A tile is a K/V head of a request: it holds all query heads that share the head, and walks the keys in blocks.
Where tiles are few, each is split into parts that run side by side, and a second kernel combines them. How many
parts is what FlashAttention 2 decides (``num_splits_heuristic`` of its ``flash_api.cpp``, Dao 2023): the fewest
whose last wave leaves the card at least 85 % as busy as the best number would.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_profile.hardware import DecodeSplits

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)
BLOCKS_A_MULTIPROCESSOR = 2
"""Tiles that the kernel wants on a multiprocessor at a time."""
ENOUGH = 0.8
"""Share of the card from which tiles are not split."""
AS_GOOD = 0.85
MOST_SPLITS = 128


def keys_of_a_block(head_dim: int) -> int:
    """Keys that a tile loads at a time."""
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


@lru_cache(maxsize=65536)
def split_count(tiles: int, slots: int, blocks: int) -> int:
    """Parts into which each of ``tiles`` is split, whose keys are ``blocks`` blocks, on a card with ``slots``.

    >>> split_count(8, 376, 1), split_count(8, 376, 9), split_count(320, 376, 9), split_count(256, 376, 9)
    (1, 9, 1, 5)
    """
    if tiles >= ENOUGH * slots:
        return 1
    counts = [s for s in range(1, min(MOST_SPLITS, slots, blocks) + 1) if s == 1 or _fewer(blocks, s)]
    waves = [tiles * s / slots for s in counts]
    busy = [wave / -(-wave // 1) for wave in waves]
    return next(s for s, share in zip(counts, busy, strict=True) if share >= AS_GOOD * max(busy))


def _fewer(blocks: int, splits: int) -> bool:
    """Whether one split more makes the longest part shorter."""
    return -(-blocks // splits) < -(-blocks // (splits - 1))


def split_counts(tiles: Floats, slots: int, blocks: Floats) -> Floats:
    """:func:`split_count` of every element."""
    pairs, where = np.unique(tiles.astype(np.int64) << 32 | blocks.astype(np.int64), return_inverse=True)
    counts = [split_count(pair >> 32, slots, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
    return np.array(counts, dtype=np.float64)[where]


class SplitDecode:
    """Time of a decode batch on one rank, without launch and read floor."""

    def __init__(
        self,
        c: DecodeSplits,
        multiprocessors: int,
        kv_heads: int,
        head_dim: int,
        key_ns: float,
        sharpness: float,
    ) -> None:
        """``key_ns`` is what a tile takes for a key; ``sharpness`` that of :class:`~llm_profile.hardware.Decode`."""
        self._c = c
        self._slots = BLOCKS_A_MULTIPROCESSOR * multiprocessors
        self._kv_heads = kv_heads
        self._block = keys_of_a_block(head_dim)
        self._key_ns = key_ns
        self._sharpness = sharpness

    def ns(self, requests: Number, read_ns: Number, mean_kv: Number, longest_kv: Number) -> Number:
        """Time for ``requests`` whose KV takes ``read_ns`` to read.

        The last wave takes at least as long as one part of the longest request, those before as a mean one.
        """
        c, p = self._c, self._sharpness
        splits = self._splits(requests, longest_kv)
        tiles = requests * self._kv_heads * splits
        waves = -(-tiles // self._slots)
        part = read_ns / tiles
        walk = c.tile_ns + self._walked(mean_kv, splits) * self._key_ns
        last_walk = c.tile_ns + self._walked(longest_kv, splits) * self._key_ns
        full = ((self._slots * part) ** p + walk**p) ** (1 / p)
        last = (((tiles - (waves - 1) * self._slots) * part) ** p + last_walk**p) ** (1 / p)
        combine = (splits > 1) * (c.combine_ns + splits * c.split_ns)
        copies = (requests > 1) * (self._kv_heads > 1) * c.copy_ns
        time: Number = (waves - 1) * full + last + combine + copies
        return time

    def _splits(self, requests: Number, longest_kv: Number) -> Number:
        """Parts of a tile."""
        tiles, blocks = requests * self._kv_heads, -(-longest_kv // self._block)
        if isinstance(tiles, np.ndarray):
            return split_counts(tiles, self._slots, np.asarray(blocks))
        return split_count(int(tiles), self._slots, int(blocks))

    def _walked(self, kv: Number, splits: Number) -> Number:
        """Keys of a part, in whole blocks."""
        blocks = -(-kv // self._block)
        walked: Number = -(-blocks // splits) * self._block
        return walked

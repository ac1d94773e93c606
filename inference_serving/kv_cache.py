"""KV blocks of one instance: a pool with a fixed capacity, counted, never over-committed."""

from __future__ import annotations


class KvCache:
    """Counts the KV blocks of one instance (``block_size`` tokens each).

    >>> pool = KvCache(capacity_blocks=10, block_size=16)
    >>> pool.blocks_for(17)
    2
    >>> pool.take(2); pool.free_blocks
    8
    >>> pool.give_back(2); pool.free_blocks
    10
    """

    def __init__(self, capacity_blocks: int, block_size: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.block_size = block_size
        self.free_blocks = capacity_blocks
        self.peak_blocks = 0

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold ``tokens`` tokens."""
        return -(-tokens // self.block_size)

    @property
    def used_blocks(self) -> int:
        """Blocks in use now."""
        return self.capacity_blocks - self.free_blocks

    def take(self, blocks: int) -> None:
        """Take blocks; the caller has checked ``free_blocks``."""
        if blocks > self.free_blocks:
            raise RuntimeError(f"KV pool over-committed: {blocks} blocks asked, {self.free_blocks} free")
        self.free_blocks -= blocks
        self.peak_blocks = max(self.peak_blocks, self.used_blocks)

    def give_back(self, blocks: int) -> None:
        """Return blocks; raises RuntimeError if more come back than were taken."""
        self.free_blocks += blocks
        if self.free_blocks > self.capacity_blocks:
            raise RuntimeError(f"KV pool got back more blocks than it has: {self.free_blocks}")

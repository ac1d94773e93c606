"""KV blocks of one instance: a pool with a fixed capacity, counted, never over-committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inference_serving.request import Request
    from inference_serving.tiers.kv_tiers import KvTiers


@dataclass(slots=True)
class PrefixStatistics:
    """Tokens that requests looked up in the pool when they first started, and how many of them were there."""

    queried_tokens: int = 0
    hit_tokens: int = 0

    @property
    def hit_ratio(self) -> float:
        """Share of the tokens looked up that were found."""
        return self.hit_tokens / self.queried_tokens if self.queried_tokens else 0.0


class PrefixMatch(NamedTuple):
    """Blocks of a request that are in the pool already, how many of them nobody uses, and the request's tokens
    that need not be computed: those of these blocks, or more that can be loaded from elsewhere."""

    blocks: int
    unused: int
    tokens: int


NO_MATCH = PrefixMatch(0, 0, 0)


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

    caches_prefixes = False
    """Whether contents are remembered, so that a request may find blocks of its prompt here."""

    def __init__(self, capacity_blocks: int, block_size: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.block_size = block_size
        self.free_blocks = capacity_blocks
        self.peak_blocks = 0
        self.statistics: PrefixStatistics | None = None
        self.tiers: KvTiers | None = None
        """What is kept beyond the NPUs; None: nothing."""

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold ``tokens`` tokens."""
        return -(-tokens // self.block_size)

    def match(self, request: Request) -> PrefixMatch:
        """What a request that has no KV yet need not compute: only what can be loaded from elsewhere."""
        if self.tiers is None or request.computed:
            return NO_MATCH
        return PrefixMatch(0, 0, self.tiers.available(request, 0))

    def claim(self, request: Request) -> None:
        """Give a request that starts its leading blocks that are here (none), and load what is elsewhere."""
        if self.tiers is not None and not request.computed:
            request.computed = self.tiers.claim(request, 0, request.first_scheduled_ns < 0)

    def remember(self, request: Request, tokens: int) -> None:
        """Note that a request's first ``tokens`` tokens have KV; nothing to note."""

    def release(self, request: Request) -> None:
        """Take a request's blocks back."""
        self.give_back(request.blocks)
        request.blocks = 0

    @property
    def used_blocks(self) -> int:
        """Blocks in use now."""
        return self.capacity_blocks - self.free_blocks

    @property
    def occupied_blocks(self) -> int:
        """Blocks in use or with content that can be found again."""
        return self.used_blocks

    def take(self, blocks: int) -> None:
        """Take blocks; the caller has checked ``free_blocks``."""
        if blocks > self.free_blocks:
            raise RuntimeError(f"KV pool over-committed: {blocks} blocks asked, {self.free_blocks} free")
        self.free_blocks -= blocks
        self.peak_blocks = max(self.peak_blocks, self.capacity_blocks - self.free_blocks)

    def give_back(self, blocks: int) -> None:
        """Return blocks; raises RuntimeError if more come back than were taken."""
        self.free_blocks += blocks
        if self.free_blocks > self.capacity_blocks:
            raise RuntimeError(f"KV pool got back more blocks than it has: {self.free_blocks}")

"""Prefix caching: KV blocks found again by their content, kept until their memory is needed.

A full block is known by a hash chained over the content of all blocks up to it, so equal hashes mean equal
prefixes. Blocks that nobody uses any more stay, least recently used first in line to be overwritten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from inference_serving.kv_cache import NO_MATCH, KvCache, PrefixMatch, PrefixStatistics
from inference_serving.request import Request

BlockHash = bytes
_DIGEST_BYTES = 16


def block_hashes(token_ids: Sequence[int], block_size: int) -> list[BlockHash]:
    """Hash of every full block of a token sequence, each chained to those before it.

    >>> one, two = block_hashes([1, 2, 3, 4], 2), block_hashes([9, 9, 3, 4, 5], 2)
    >>> len(one), len(two), one[1] == two[1]
    (2, 2, False)
    """
    data = np.asarray(token_ids, dtype=np.int64).tobytes()
    step = 8 * block_size
    hashes, before = [], b""
    for start in range(0, len(data) - step + 1, step):
        before = blake2b(before + data[start : start + step], digest_size=_DIGEST_BYTES).digest()
        hashes.append(before)
    return hashes


class PrefixKvCache(KvCache):
    """A pool of KV blocks that remembers what is in them.

    ``free_blocks`` counts every block that nobody uses, with content or without; taking blocks overwrites those
    without content first, then the least recently used. A block that several requests share counts once.
    """

    caches_prefixes = True

    def __init__(self, capacity_blocks: int, block_size: int) -> None:
        super().__init__(capacity_blocks, block_size)
        self.statistics: PrefixStatistics = PrefixStatistics()
        self._users: dict[BlockHash, int] = {}
        self._unused: OrderedDict[BlockHash, None] = OrderedDict()

    @property
    def cached_blocks(self) -> int:
        """Blocks whose content is known, used or not."""
        return len(self._users)

    @property
    def occupied_blocks(self) -> int:
        """Blocks in use or with content that can be found again."""
        return self.used_blocks + len(self._unused)

    def take(self, blocks: int) -> None:
        """Take blocks; the caller has checked ``free_blocks``. Unused content is lost where nothing else is left."""
        super().take(blocks)
        while len(self._unused) > self.free_blocks:
            lost, _ = self._unused.popitem(last=False)
            del self._users[lost]

    def match(self, request: Request) -> PrefixMatch:
        """What a request that has no KV yet need not compute; one token is always left."""
        if request.computed:
            return NO_MATCH
        if not request.token_ids:
            return super().match(request)
        hashes = self._hashes(request)
        found = unused = 0
        for block_hash in hashes[: (request.num_tokens - 1) // self.block_size]:
            users = self._users.get(block_hash)
            if users is None:
                break
            found += 1
            unused += users == 0
        tokens = found * self.block_size
        if self.tiers is not None:
            tokens = self.tiers.available(request, tokens)
        return PrefixMatch(found, unused, tokens)

    def claim(self, request: Request) -> None:
        """Give a request that starts its leading blocks that are here, and load what is elsewhere."""
        if request.computed or request.blocks:
            return
        found = self.match(request).blocks
        first_time = request.first_scheduled_ns < 0
        if first_time:
            self.statistics.queried_tokens += request.num_tokens
            self.statistics.hit_tokens += found * self.block_size
            request.prefix_hit_tokens = found * self.block_size
        for block_hash in request.block_hashes[:found]:
            if self._users[block_hash] == 0:
                del self._unused[block_hash]
                self.free_blocks -= 1
            self._users[block_hash] += 1
        self.peak_blocks = max(self.peak_blocks, self.used_blocks)
        request.known_blocks = list(range(found))
        request.remembered_blocks = found
        request.blocks = found
        request.computed = found * self.block_size
        if self.tiers is not None:
            request.computed = self.tiers.claim(request, request.computed, first_time)

    def remember(self, request: Request, tokens: int) -> None:
        """Note that a request's first ``tokens`` tokens have KV: its full blocks can be found from now on.

        A block whose content is here already stays a private copy.
        """
        if not request.token_ids:
            return
        hashes = self._hashes(request)
        first = request.remembered_blocks
        last = min(tokens // self.block_size, len(hashes))
        for place in range(first, last):
            if hashes[place] not in self._users:
                self._users[hashes[place]] = 1
                request.known_blocks.append(place)
        request.remembered_blocks = max(first, last)

    def release(self, request: Request) -> None:
        """Take a request's blocks back; those with known content can still be found until they are overwritten."""
        self.remember(request, request.computed)
        freed = request.blocks - len(request.known_blocks)
        for place in reversed(request.known_blocks):  # the tail of a prefix is the first to go
            block_hash = request.block_hashes[place]
            self._users[block_hash] -= 1
            if self._users[block_hash] == 0:
                freed += 1
                if (place + 1) * self.block_size <= request.computed:
                    self._unused[block_hash] = None
                else:  # it gave way before the block was computed
                    del self._users[block_hash]
        self.give_back(freed)
        request.blocks = request.remembered_blocks = 0
        request.known_blocks = []

    def _hashes(self, request: Request) -> list[BlockHash]:
        if request.hashed_block_size != self.block_size:
            request.block_hashes = block_hashes(request.token_ids, self.block_size)
            request.hashed_block_size = self.block_size
        return request.block_hashes

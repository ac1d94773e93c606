"""Bytes of host memory and CXL devices that nothing has been placed in: shared by evicted KV and prefix pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inference_serving.memory_places import MemoryId

Reclaimer = Callable[[Mapping[MemoryId, int]], None]


class SpareMemory:
    """Counts free bytes by memory; whoever only caches gives way to whoever must keep.

    >>> from inference_serving.placement import CPU
    >>> host = MemoryId(CPU)
    >>> spare = SpareMemory({host: 10})
    >>> spare.take({host: 8}), spare.take({host: 3}), spare.free_bytes[host]
    (True, False, 2)
    """

    def __init__(self, free_bytes: Mapping[MemoryId, int]) -> None:
        self.free_bytes = dict(free_bytes)
        self._reclaimers: list[Reclaimer] = []

    def add_reclaimer(self, reclaim: Reclaimer) -> None:
        """Ask ``reclaim`` to free bytes when :meth:`keep` is short of some; it gets what is needed in all."""
        self._reclaimers.append(reclaim)

    def fits(self, needs: Mapping[MemoryId, int]) -> bool:
        """Whether these bytes are free."""
        return all(size <= self.free_bytes[memory] for memory, size in needs.items())

    def take(self, needs: Mapping[MemoryId, int]) -> bool:
        """Take bytes of each memory; False, and nothing taken, if one is short."""
        if not self.fits(needs):
            return False
        for memory, size in needs.items():
            self.free_bytes[memory] -= size
        return True

    def keep(self, needs: Mapping[MemoryId, int]) -> bool:
        """Take bytes, at the expense of caches if need be."""
        for reclaim in self._reclaimers:
            if self.fits(needs):
                break
            reclaim(needs)
        return self.take(needs)

    def give_back(self, needs: Mapping[MemoryId, int]) -> None:
        """Return bytes."""
        for memory, size in needs.items():
            self.free_bytes[memory] += size

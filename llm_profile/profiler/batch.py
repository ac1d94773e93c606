"""The batch of one iteration: lengths only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class DecodeKernel(StrEnum):
    """How a decode batch is computed."""

    LOOP = "loop"
    """Request by request: time is the sum over requests."""
    PADDED = "padded"
    """All at once, padded to the longest."""


@dataclass(frozen=True)
class BatchShape:
    """Lengths of a batch's requests."""

    prefill: Sequence[tuple[int, int]] = ()
    """(chunk, tokens already cached) of each prefilling request."""
    decode_kv: Sequence[int] = ()
    """KV of each decoding request, the new token included."""

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return sum(chunk for chunk, _ in self.prefill) + len(self.decode_kv)

    @property
    def sequences(self) -> int:
        """Requests."""
        return len(self.prefill) + len(self.decode_kv)

    def positions(self) -> list[int]:
        """Position of each token in its request."""
        chunks = [context + i for chunk, context in self.prefill for i in range(chunk)]
        return [*chunks, *(kv - 1 for kv in self.decode_kv)]

    def last_rows(self) -> list[int]:
        """Row of the last token of each request."""
        ends, row = [], 0
        for chunk in (*(chunk for chunk, _ in self.prefill), *(1 for _ in self.decode_kv)):
            row += chunk
            ends.append(row - 1)
        return ends

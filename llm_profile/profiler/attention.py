"""Attention of one batch on its KV caches: ``scaled_dot_product_attention`` for each prefill and the decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch.nn.attention.bias import causal_lower_right

from llm_profile.profiler.batch import BatchShape, DecodeKernel
from llm_profile.profiler.model import Weights

Kv = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one request or one padded batch, ``[..., kv heads, tokens, head_dim]``."""


@dataclass(frozen=True)
class Heads:
    """Heads of one rank."""

    q: int
    kv: int
    dim: int


class KvBatch:
    """A batch with its KV caches for every block; masks are made before, as engines do once an iteration."""

    def __init__(
        self, shape: BatchShape, heads: Heads, weights: Weights, *, blocks: int, kernel: DecodeKernel
    ) -> None:
        self.shape = shape
        self._heads = heads
        self._device = weights.device
        self._padded = kernel == DecodeKernel.PADDED
        self._prefill_masks = [self._prefill_mask(chunk, context) for chunk, context in shape.prefill]
        self._decode_mask = self._mask_of_padding()
        self._caches = [self._block_cache(weights) for _ in range(blocks)]

    def attend(self, block: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Write the new K and V, and attend; heads ``[tokens, heads, dim]`` to ``[tokens, heads * dim]``."""
        prefill_caches, decode_caches = self._caches[block]
        parts, start = [], 0
        for (chunk, context), mask, cache in zip(
            self.shape.prefill, self._prefill_masks, prefill_caches, strict=True
        ):
            end = start + chunk
            _write(cache, context, k[start:end], v[start:end])
            query = q[start:end].transpose(0, 1)[None]
            keys, values = cache[0][None], cache[1][None]
            out = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
            )
            parts.append(out[0].transpose(0, 1).flatten(1))
            start = end
        if self.shape.decode_kv:
            decode = self._decode_padded if self._padded else self._decode_loop
            parts.append(decode(decode_caches, q[start:], k[start:], v[start:]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode_loop(
        self, caches: Sequence[Kv], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        grouped = self._grouped(q)
        out = []
        for i, (cache, kv) in enumerate(zip(caches, self.shape.decode_kv, strict=True)):
            _write(cache, kv - 1, k[i : i + 1], v[i : i + 1])
            keys, values = cache[0][None], cache[1][None]
            out.append(F.scaled_dot_product_attention(grouped[i : i + 1], keys, values))
        return torch.cat(out).flatten(1)

    def _decode_padded(
        self, caches: Sequence[Kv], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        ((keys, values),) = caches
        keys[self._rows, :, self._new_tokens] = k
        values[self._rows, :, self._new_tokens] = v
        out = F.scaled_dot_product_attention(self._grouped(q), keys, values, attn_mask=self._decode_mask)
        return out.flatten(1)

    def _grouped(self, q: torch.Tensor) -> torch.Tensor:
        """Query heads that share a K/V head as rows of one query: each K/V head is read once."""
        return q.unflatten(1, (self._heads.kv, -1))

    def _block_cache(self, weights: Weights) -> tuple[list[Kv], list[Kv]]:
        kv, dim = self._heads.kv, self._heads.dim

        def cache(*leading: int) -> Kv:
            return weights.normal(*leading, dim), weights.normal(*leading, dim)

        prefill = [cache(kv, context + chunk) for chunk, context in self.shape.prefill]
        lengths = self.shape.decode_kv
        if self._padded:
            return prefill, [cache(len(lengths), kv, max(lengths))] if lengths else []
        return prefill, [cache(kv, length) for length in lengths]

    def _prefill_mask(self, chunk: int, context: int) -> torch.Tensor | None:
        """Which keys a chunk on a history sees; None for plain causal.

        On CUDA it stays a bias that the flash kernel knows; a mask would rule that kernel out.
        """
        if not context:
            return None
        if self._device != "cpu":
            return causal_lower_right(chunk, context + chunk)
        every = torch.ones(chunk, context + chunk, dtype=torch.bool, device=self._device)
        return every.tril(diagonal=context)

    def _mask_of_padding(self) -> torch.Tensor | None:
        lengths = self.shape.decode_kv
        if not (self._padded and lengths):
            return None
        ends = torch.tensor(lengths, device=self._device)
        self._rows, self._new_tokens = torch.arange(len(lengths), device=self._device), ends - 1
        if min(lengths) == max(lengths):
            return None
        inside = torch.arange(max(lengths), device=self._device)[None, :] < ends[:, None]
        return inside[:, None, None, :]


def _write(cache: Kv, at: int, k: torch.Tensor, v: torch.Tensor) -> None:
    end = at + len(k)
    cache[0][:, at:end] = k.transpose(0, 1)
    cache[1][:, at:end] = v.transpose(0, 1)

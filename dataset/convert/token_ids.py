"""Token ids for prompts of which only the identity of blocks is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def block_token_ids(blocks: Sequence[int], input_toks: int, block_toks: int, vocabulary: int) -> list[int]:
    """Token ids below ``vocabulary`` for a prompt of ``input_toks`` tokens in ``blocks`` of ``block_toks``.

    Equal blocks get equal ids. Block ids below ``vocabulary`` squared are told apart by any two successive
    tokens: a block repeats the two digits of its id to the base ``vocabulary``. So two prompts have as many
    first tokens in common as their first equal blocks hold, and at most one more.

    >>> block_token_ids([7, 25], 6, 4, 10)
    [7, 0, 7, 0, 5, 2]
    """
    high, low = np.divmod(np.asarray(blocks, dtype=np.int64), vocabulary)
    digits = np.stack([low, high], axis=1)
    ids: list[int] = np.tile(digits, (1, (block_toks + 1) // 2))[:, :block_toks].ravel()[:input_toks].tolist()
    return ids

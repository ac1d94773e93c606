"""Stages of pipeline parallelism: a model cut at block boundaries, each part on NPUs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from inference_serving.layer_group import LayerGroup


class PipelineStage(NamedTuple):
    """Stage number ``part`` (from 0) of ``parts``: blocks ``first_block`` to ``stop_block - 1``.

    The embedding belongs to the first stage, final norm and lm_head to the last. A stage answers what a
    :class:`~inference_serving.layer_group.LayerGroup` answers, so that either can say which part of a model runs.
    """

    part: int
    parts: int
    first_block: int
    stop_block: int

    @property
    def is_first(self) -> bool:
        """Whether token ids are read here."""
        return self.part == 0

    @property
    def is_last(self) -> bool:
        """Whether tokens are sampled here."""
        return self.part == self.parts - 1

    def blocks(self, num_hidden_layers: int) -> range:
        """Numbers of the stage's blocks."""
        if self.stop_block > num_hidden_layers:
            raise ValueError(f"{num_hidden_layers} blocks have no stage with block {self.stop_block - 1}")
        return range(self.first_block, self.stop_block)


ModelPart = LayerGroup | PipelineStage
"""Which blocks of a model run, and whether what comes before and after the blocks does."""


def even_partition(num_hidden_layers: int, count: int) -> tuple[int, ...]:
    """Blocks of each of ``count`` stages, as vLLM deals them (``get_pp_indices``, vllm/distributed/utils.py).

    Every stage gets the same number; of those left over, the last stage but one gets the first, the stage before it
    the next, and so on: the last stage has final norm and lm_head to run already.

    >>> even_partition(32, 3)
    (11, 11, 10)
    >>> even_partition(7, 4)
    (2, 2, 2, 1)

    Raises ValueError if a stage would have no block.
    """
    if not 1 <= count <= num_hidden_layers:
        raise ValueError(
            f"{num_hidden_layers} blocks cannot be cut into {count} stages; use 1 to {num_hidden_layers}"
        )
    share, left = divmod(num_hidden_layers, count)
    return tuple(share + (count - 1 - left <= stage < count - 1) for stage in range(count))


def make_stages(partition: Sequence[int]) -> tuple[PipelineStage, ...]:
    """Stages with so many blocks each.

    >>> [list(stage.blocks(3)) for stage in make_stages((2, 1))]
    [[0, 1], [2]]
    """
    stages, first = [], 0
    for index, blocks in enumerate(partition):
        stages.append(PipelineStage(index, len(partition), first, first + blocks))
        first += blocks
    return tuple(stages)

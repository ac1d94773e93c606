"""Layer groups: an iteration cut at block boundaries, so that a scheduler may run something else in between.

As in layer-level preemption of long prefills: the groups of one batch run one after another, each as an engine
run of its own, and what the batch brings (KV that counts, tokens) is there after the last.
"""

from __future__ import annotations

from typing import NamedTuple


class LayerGroup(NamedTuple):
    """Part number ``part`` (from 0) of ``parts`` parts of a model's transformer blocks, cut as evenly as possible.

    The embedding belongs to the first part, final norm and lm_head to the last. ``LayerGroup(0, 1)`` is the
    whole model (:data:`WHOLE_MODEL`). A tuple, because it is hashed in every iteration.
    """

    part: int
    parts: int

    @property
    def is_first(self) -> bool:
        """Whether the forward pass begins here: token ids are read."""
        return self.part == 0

    @property
    def is_last(self) -> bool:
        """Whether the forward pass ends here: tokens are sampled."""
        return self.part == self.parts - 1

    def blocks(self, num_hidden_layers: int) -> range:
        """Numbers of the part's blocks; sizes of two parts differ by one at most.

        Raises ValueError if there is no such part, or more parts than blocks: a part without a block would
        have nothing to run and no KV to send, so that it would never end. :func:`layer_groups` never makes one.
        """
        if not 0 <= self.part < self.parts <= num_hidden_layers:
            raise ValueError(f"{num_hidden_layers} blocks have no part {self.part} of {self.parts}")
        start, stop = self.part * num_hidden_layers, (self.part + 1) * num_hidden_layers
        return range(start // self.parts, stop // self.parts)


WHOLE_MODEL = LayerGroup(0, 1)
"""All blocks in one: an iteration that is not cut."""


def layer_groups(num_hidden_layers: int, count: int) -> tuple[LayerGroup, ...]:
    """The parts of one iteration, in the order in which they run.

    A ``count`` beyond the number of blocks means one block a part, so that one setting serves models of any
    depth. Raises ValueError below 1.
    """
    if count < 1:
        raise ValueError(f"{count} layer groups: must be at least 1")
    parts = min(count, num_hidden_layers)
    return tuple(LayerGroup(part, parts) for part in range(parts))

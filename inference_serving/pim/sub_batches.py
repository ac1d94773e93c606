"""Sub-batch interleaving: a batch in two halves, so that the NPUs work on one while memory works on the other.

As in NeuPIMs (Heo et al., ASPLOS 2024). Both halves run all layers, each with weights of its own to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inference_serving.cluster import InstanceSpec
from inference_serving.experts.times import WaveShare
from inference_serving.request import Batch
from inference_serving.trace import Trace
from inference_serving.trace_generator import NO_MOVES, TraceGenerator
from inference_serving.trace_shape import KvMoveKind, TraceShape


def split_batch(batch: Batch) -> tuple[Batch, Batch] | None:
    """Two halves of a batch; None if nothing of it runs in memory, or it is a single request.

    Rows that run one token take turns, channel group by channel group, so that each half keeps all channels busy;
    each chunk of a prompt then goes to the half with fewer tokens.
    """
    single = np.flatnonzero(batch.grants == 1)
    if not single.size or batch.sequences < 2:
        return None
    if batch.kv_groups is not None:
        single = single[np.argsort(batch.kv_groups[single], kind="stable")]
    in_first = np.zeros(len(batch.grants), dtype=np.bool_)
    in_first[single[::2]] = True
    tokens = [len(single[::2]), len(single[1::2])]
    for row in np.flatnonzero(batch.grants > 1).tolist():
        half = int(tokens[1] < tokens[0])
        in_first[row] = half == 0
        tokens[half] += int(batch.grants[row])
    return _half(batch, in_first), _half(batch, ~in_first)


def _half(batch: Batch, rows: NDArray[np.bool_]) -> Batch:
    """Some rows of a batch, the others without a token; its prompt tokens are those of chunks."""
    grants = batch.grants * rows
    chunks = int(grants[grants > 1].sum())
    return replace(
        batch,
        grants=grants,
        total_tokens=int(grants.sum()),
        prompt_tokens=chunks,
        sequences=int(np.count_nonzero(grants)),
    )


class SubBatchTraces(TraceGenerator):
    """Makes traces whose halves take turns on the NPUs, where a batch can be split."""

    _joined: dict[tuple[TraceShape, TraceShape], TraceShape] | None = None

    def synthesize_trace(
        self,
        batch: Batch,
        kv_tokens: Mapping[int, int],
        decode_instances: Mapping[int, InstanceSpec],
        moves: Mapping[KvMoveKind, int] = NO_MOVES,
        wave: WaveShare | None = None,
    ) -> Trace:
        """As :meth:`TraceGenerator.synthesize_trace`; KV on its way is the first half's."""
        halves = split_batch(batch)
        if halves is None:
            return super().synthesize_trace(batch, kv_tokens, decode_instances, moves, wave)
        first = super().synthesize_trace(halves[0], kv_tokens, decode_instances, moves)
        second = super().synthesize_trace(halves[1], {}, decode_instances)
        return Trace(
            self._join(first.shape, second.shape),
            np.concatenate([first.durations_ns, second.durations_ns]),
            np.concatenate([first.sizes, second.sizes]),
            batch.total_tokens,
            halves=(first, second),
        )

    def _join(self, first: TraceShape, second: TraceShape) -> TraceShape:
        """The structure of two halves, once for each pair, since the engine compiles what it has not seen."""
        if self._joined is None:
            self._joined = {}
        if (first, second) not in self._joined:
            self._joined[first, second] = replace(
                first,
                rows=first.rows + second.rows,
                fixed_sizes=np.concatenate([first.fixed_sizes, second.fixed_sizes]),
                halves=(first, second),
            )
        return self._joined[first, second]

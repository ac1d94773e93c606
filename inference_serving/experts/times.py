"""What the experts of an iteration cost: time of each rank, and rows that the all-to-all carries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.gate_function import ExpertRouting, check_counts
from inference_serving.request import Int64Array
from llm_profile.latency import LatencyModel, Source


@dataclass(frozen=True, slots=True)
class ExpertWork:
    """The experts of one block, for each draw of the routing.

    ``durations_ns`` and ``assignments`` have shape ``[draws * ep_size]``, the ranks of a draw side by side;
    an assignment is a token at one of its experts. ``busiest`` is the most of any rank, shape ``[draws]``.
    ``slowest`` has the time of each draw's slowest rank, and how it came about.
    """

    durations_ns: Int64Array
    assignments: Int64Array
    busiest: Int64Array
    slowest: tuple[tuple[int, Source], ...]

    def of_ranks(self, ranks: slice) -> ExpertWork:
        """The part of some ranks; the busiest and the slowest remain those of all."""
        durations_ns, assignments = (
            numbers.reshape(len(self.busiest), -1)[:, ranks].ravel()
            for numbers in (self.durations_ns, self.assignments)
        )
        return replace(self, durations_ns=durations_ns, assignments=assignments)


@dataclass(frozen=True, slots=True)
class WaveShare:
    """What an instance has of the experts of a wave, and the most tokens that any rank of the wave owns."""

    experts: ExpertWork
    most_owned: int


class ExpertTimes:
    """Asks the routing once per iteration, and the latency model once per draw and rank.

    Without expert parallelism every rank has a share of each expert, so there is one group of experts; with it
    rank ``r`` of ``n`` has the ``r``-th ``n``-th of them.
    """

    def __init__(self, instance: InstanceSpec, latency: LatencyModel, routing: ExpertRouting) -> None:
        self._model = instance.model
        self._ep_size = instance.ep_size
        self._latency = latency
        self._routing = routing
        self._known: dict[int, ExpertWork] = {}

    @property
    def draws(self) -> int:
        """Draws that the blocks take turns with."""
        return self._routing.draws

    def of(self, tokens: int) -> ExpertWork:
        """The experts of an iteration of ``tokens`` tokens; a repeatable routing is asked once for each number."""
        if tokens in self._known:
            return self._known[tokens]
        counts = self._routing.counts(tokens)
        check_counts(counts, tokens, self._model, self._routing.draws)
        work = self._price(counts.reshape(self._routing.draws, self._ep_size, -1))
        if self._routing.repeatable:
            self._known[tokens] = work
        return work

    def _price(self, counts: Int64Array) -> ExpertWork:
        times = np.array([[self._latency.moe_ns(rank) for rank in draw] for draw in counts], dtype=np.int64)
        assignments = counts.sum(axis=2)
        return ExpertWork(
            times.ravel(),
            assignments.ravel(),
            assignments.max(axis=1),
            tuple(self._slowest(counts, times)),
        )

    def _slowest(self, counts: Int64Array, times: Int64Array) -> Iterator[tuple[int, Source]]:
        for draw, rank in enumerate(times.argmax(axis=1).tolist()):
            yield int(times[draw, rank]), self._latency.moe_source(counts[draw, rank])


class ExpertTally:
    """Compute time of the experts so far by how it came about: that of each block's slowest rank."""

    def __init__(self) -> None:
        self.time_ns: Counter[Source] = Counter()

    def count(self, work: ExpertWork, blocks_of_draw: Int64Array) -> None:
        """Note one iteration; ``blocks_of_draw`` says how many blocks took each draw."""
        for (ns, source), blocks in zip(work.slowest, blocks_of_draw.tolist(), strict=True):
            self.time_ns[source] += ns * blocks

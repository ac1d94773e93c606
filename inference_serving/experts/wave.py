"""Data-parallel groups: instances that run their iterations together, in waves.

As in vLLM, whose data-parallel ranks step together because their experts are shared: while any instance of a
group has work, all of them run; who has none runs a dummy batch of one token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.controller import EngineController
from inference_serving.experts.times import ExpertTimes, WaveShare
from inference_serving.gate_function import ExpertRouting
from inference_serving.instance import Formed, Instance
from inference_serving.prefill_costs import SerialTimes
from inference_serving.request import Batch
from inference_serving.trace import Trace
from inference_serving.trace_generator import TraceGenerator
from llm_profile.latency import LatencyModel

DUMMY_WORK: Final = Batch(np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1, 0, 1)
"""What an instance without work runs: one token on its own."""


class WaveTraces:
    """Makes the traces of one wave, from a batch of each instance of the group."""

    def __init__(self, generators: Sequence[TraceGenerator], experts: ExpertTimes | None) -> None:
        self._generators = generators
        self._experts = experts

    @staticmethod
    def of(
        generators: Sequence[TraceGenerator], latency: LatencyModel, routing: ExpertRouting | None
    ) -> WaveTraces:
        """Traces of a group; experts are shared if they are spread over more than one instance."""
        spec = generators[0].instance
        shared = routing is not None and spec.ep_size > spec.tp_size
        return WaveTraces(generators, ExpertTimes(spec, latency, routing) if shared and routing else None)

    def synthesize(self, batches: Sequence[Batch]) -> list[Trace]:
        """One trace for each instance; the tokens of all are dealt to the experts at once."""
        shares = self._shares(batches)
        return [
            generator.synthesize_trace(batch, {}, {}, wave=share)
            for generator, batch, share in zip(self._generators, batches, shares, strict=True)
        ]

    def synthesize_stages(self, batches: Sequence[Batch]) -> list[list[Trace]]:
        """The same for instances with pipeline stages: for each stage, a trace for each instance."""
        shares = self._shares(batches)
        of_instances = [
            generator.synthesize_stages(batch, {}, {}, wave=share)
            for generator, batch, share in zip(self._generators, batches, shares, strict=True)
        ]
        return [list(stage) for stage in zip(*of_instances, strict=True)]

    def _shares(self, batches: Sequence[Batch]) -> Sequence[WaveShare | None]:
        """What each instance has of the experts; None each if they are not shared."""
        if self._experts is None:
            return [None] * len(batches)
        pairs = list(zip(self._generators, batches, strict=True))
        work = self._experts.of(sum(batch.total_tokens for batch in batches))
        owned = max(-(-batch.total_tokens // generator.instance.tp_size) for generator, batch in pairs)
        shares, first = [], 0
        for generator, _ in pairs:
            stop = first + generator.instance.tp_size
            shares.append(WaveShare(work.of_ranks(slice(first, stop)), owned))
            first = stop
        return shares


class PredictedWave:
    """A batch of one instance while the others of its group have nothing to do."""

    def __init__(self, traces: WaveTraces, index: int, members: int, serial: SerialTimes) -> None:
        self.index = index
        """Which of the instances it is that has a batch."""
        self._traces = traces
        self._members = members
        self._serial = serial

    def __call__(self, batch: Batch) -> tuple[Trace, int]:
        """The instance's trace, and the time of the wave that is not in its layers."""
        traces = self._traces.synthesize(self._with_dummies(batch))
        return traces[self.index], self._serial.wave_ns(traces, self.index)

    def stages_of(self, batch: Batch) -> list[list[Trace]]:
        """Traces of the whole wave by pipeline stage and instance."""
        return self._traces.synthesize_stages(self._with_dummies(batch))

    def _with_dummies(self, batch: Batch) -> list[Batch]:
        batches = [DUMMY_WORK] * self._members
        batches[self.index] = batch
        return batches


class DpGroup:
    """The instances of one data-parallel group at run time."""

    def __init__(self, members: Sequence[Instance], routing: ExpertRouting | None) -> None:
        self.members = members
        self._traces = WaveTraces.of([one.traces for one in members], members[0].latency, routing)

    def stages_of(self, formed: Sequence[Formed | None]) -> list[list[Trace]]:
        """Traces of a wave by pipeline stage, with dummy batches for None."""
        return self._traces.synthesize_stages([one.batch if one else DUMMY_WORK for one in formed])

    def submit(
        self, controller: EngineController, batches: Sequence[Batch | None], at_ns: int
    ) -> tuple[int, list[Trace]]:
        """Start a wave at ``at_ns``, with dummy batches for None; returns its ticket and the traces."""
        traces = self._traces.synthesize([batch or DUMMY_WORK for batch in batches])
        return controller.submit_wave(traces, at_ns), traces


def predicted_waves(
    group: Sequence[InstanceSpec], latency: LatencyModel, routing: ExpertRouting | None, serial: SerialTimes
) -> Mapping[int, PredictedWave]:
    """Predictions for each instance of a group, by instance id."""
    generators = [TraceGenerator(spec, latency, routing) for spec in group]
    traces = WaveTraces.of(generators, latency, routing)
    return {
        spec.instance_id: PredictedWave(traces, index, len(group), serial) for index, spec in enumerate(group)
    }

"""Predicted prefill times of an instance with pipeline stages, through which chunks of a prompt follow each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from inference_serving.cluster import InstanceSpec
from inference_serving.gate_function import ExpertRouting
from inference_serving.host_overhead import HostOverhead
from inference_serving.layer_group import LayerGroup
from inference_serving.policies.forecasting import Forecaster
from inference_serving.policies.options import PolicyOptions
from inference_serving.policies.prefill import Forecast
from inference_serving.prefill_costs import ATTENTION_SLOT, PrefillCosts, SerialTimes, even_batch
from inference_serving.request import Batch
from inference_serving.trace import Trace
from llm_profile.latency import LatencyModel


class PredictedWave(Protocol):
    """A batch of one instance while the others of its group run dummies."""

    index: int
    """Which of the instances it is."""

    def __call__(self, batch: Batch) -> tuple[Trace, int]:
        """The instance's trace, and the time of the wave that is not in its layers."""
        ...

    def stages_of(self, batch: Batch) -> list[list[Trace]]:
        """Traces of the whole wave by pipeline stage and instance."""
        ...


class StageTime(NamedTuple):
    """A batch alone in a stage: how long it computes, and how long its activations then take to the next; ns."""

    busy_ns: int
    hop_ns: int


class PipelineCosts(PrefillCosts):
    """Prefill times through all stages, and of each.

    ``wave`` makes the traces of a batch and of the dummies that run with it, where there are any.
    """

    def __init__(
        self,
        instance: InstanceSpec,
        latency: LatencyModel,
        overhead: HostOverhead,
        serial: SerialTimes,
        routing: ExpertRouting | None = None,
        wave: PredictedWave | None = None,
    ) -> None:
        super().__init__(instance, latency, overhead, serial.ns, routing)
        self._serial = serial
        self._stage_traces: Callable[[Batch], Sequence[Sequence[Trace]]] = self._own_traces
        self._index = 0
        if wave is not None:
            self._stage_traces, self._index = wave.stages_of, wave.index
        self._stages = instance.stages()
        self._known: dict[tuple[int, int], list[StageTime]] = {}

    def stage_times_ns(self, tokens: int, context: int) -> list[StageTime]:
        """Times of one chunk in each stage, of ``tokens`` tokens after ``context`` cached ones."""
        chunk = np.array([tokens]), np.array([context]), np.empty(0, dtype=np.int64)
        if tokens == 1:
            chunk = chunk[2], chunk[2], chunk[1] + 1
        attention_ns = max(self.latency.attention_ns(*chunk), 1)
        return [
            StageTime(dense.busy_ns + blocks * attention_ns, dense.hop_ns)
            for dense, blocks in zip(self._dense(tokens, 1), self._blocks_of_stages(), strict=True)
        ]

    def _blocks_of_stages(self) -> list[int]:
        return [len(stage.blocks(self._blocks)) for stage in self._stages]

    def _price_dense(self, tokens: int, sequences: int, layer_group: LayerGroup) -> int:
        ways_ns = sum(stage.busy_ns + stage.hop_ns for stage in self._dense(tokens, sequences))
        return ways_ns + self.overhead.before(layer_group)

    def _dense(self, tokens: int, sequences: int) -> list[StageTime]:
        """Everything but attention, by stage."""
        if (tokens, sequences) not in self._known:
            stages = self._stage_traces(even_batch(tokens, sequences))
            self._known[tokens, sequences] = [self._without_attention(traces) for traces in stages]
        return self._known[tokens, sequences]

    def _without_attention(self, traces: Sequence[Trace]) -> StageTime:
        shape = traces[self._index].shape
        attention_ns = len(shape.blocks) * max(int(traces[self._index].durations_ns[ATTENTION_SLOT]), 1)
        parts = self._serial.parts_ns(traces)
        landed_ns = parts[shape.hands_on.part] if shape.hands_on is not None else parts[0]
        return StageTime(parts[0] - attention_ns, landed_ns - parts[0])

    def _own_traces(self, batch: Batch) -> Sequence[Sequence[Trace]]:
        return [[trace] for trace in self._traces.synthesize_stages(batch, {}, {})]


class PipelineForecaster(Forecaster):
    """Predicts how a prompt alone goes through the stages, chunk after chunk, as many at a time as there are stages."""

    def __init__(self, costs: PipelineCosts, options: PolicyOptions, token_budget: int) -> None:
        super().__init__(costs, options, token_budget)
        self._pipeline = costs

    def _forecast(self, computed: int, prompt_tokens: int) -> Forecast:
        tokens, ends_ns = [computed], [0]
        host_ns = 0
        free_ns: list[int] = []
        sent_ns: list[int] = []
        while tokens[-1] < prompt_tokens:
            chunk = min(self.chunk_tokens, prompt_tokens - tokens[-1])
            times = self._pipeline.stage_times_ns(chunk, tokens[-1])
            free_ns, sent_ns = free_ns or [0] * len(times), sent_ns or [0] * len(times)
            formed_ns = ends_ns[max(len(ends_ns) - len(times), 0)]
            host_ns = max(host_ns, formed_ns) + self._pipeline.overhead.step_ns
            ready_ns = host_ns
            for stage, one in enumerate(times):
                free_ns[stage] = max(ready_ns, free_ns[stage]) + one.busy_ns
                # messages between two stages take turns
                ready_ns = sent_ns[stage] = max(free_ns[stage], sent_ns[stage]) + one.hop_ns
            tokens.append(tokens[-1] + chunk)
            ends_ns.append(free_ns[-1])
        return Forecast(tuple(tokens), tuple(ends_ns))


def make_costs(
    instance: InstanceSpec,
    latency: LatencyModel,
    overhead: HostOverhead,
    serial: SerialTimes,
    routing: ExpertRouting | None,
    wave: PredictedWave | None,
) -> PrefillCosts:
    """The costs of an instance, with pipeline stages or without; arguments as :class:`PrefillCosts` has them."""
    if instance.pp_size > 1:
        return PipelineCosts(instance, latency, overhead, serial, routing, wave)
    return PrefillCosts(instance, latency, overhead, serial.ns, routing, wave)


def make_forecaster(costs: PrefillCosts, options: PolicyOptions, token_budget: int) -> Forecaster:
    """The forecaster for an instance with these costs."""
    if isinstance(costs, PipelineCosts):
        return PipelineForecaster(costs, options, token_budget)
    return Forecaster(costs, options, token_budget)

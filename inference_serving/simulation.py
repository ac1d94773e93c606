"""The event loop: arrivals, iteration ends and KV landings on one clock, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from astra_sim import Completion, EngineCounters
from inference_serving.arrivals import Arrivals, request_of
from inference_serving.cluster import Cluster, InstanceSpec, Role
from inference_serving.controller import EngineController, make_controller
from inference_serving.disaggregation import KvMover
from inference_serving.experts.wave import DpGroup, PredictedWave, predicted_waves
from inference_serving.gate_function import ExpertRouting, make_expert_routing
from inference_serving.host_overhead import HostOverhead
from inference_serving.instance import NOBODYS, Formed, Instance
from inference_serving.pipeline.costs import make_costs
from inference_serving.pipeline.stage_run import PipelineGroup, StageRun
from inference_serving.prefill_costs import SerialTimes
from inference_serving.request import Batch, Request
from inference_serving.request_spec import RequestSpec
from inference_serving.router import make_decode_router, make_router
from inference_serving.scheduler import IterationOutcome
from inference_serving.settings import SimulationConfig
from inference_serving.tiers.builder import make_tiers
from inference_serving.trace import Trace
from llm_profile.latency import LatencyModel

_ITERATION_PART = 0
_NOTHING = IterationOutcome((), (), 0)


class SimulationStallError(RuntimeError):
    """Requests are left, but nothing will ever happen again; the message says who waits for what."""


class RunObserver(Protocol):
    """Sees a run as it goes; must not change anything."""

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """An iteration (with pipeline stages: a stage of it) has been handed to the engine."""
        ...

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """An iteration has ended."""
        ...


@runtime_checkable
class StageObserver(Protocol):
    """A :class:`RunObserver` that wants to know, too, when pipeline stages have ended their part of a batch."""

    def on_stage_end(self, now_ns: int, instance: Instance, stage: int) -> None:
        """A stage of an instance has ended its part of a batch."""
        ...


class Simulation:
    """One run of a workload on a cluster; time is the engine's clock in ns."""

    def __init__(
        self,
        cluster: Cluster,
        workload: Iterable[RequestSpec],
        config: SimulationConfig,
        latencies: Mapping[int, LatencyModel],
        observers: Sequence[RunObserver] = (),
    ) -> None:
        self.controller = make_controller(cluster, config)
        self.instances: dict[int, Instance] = {}
        self._mover = KvMover(self.instances)
        serial = SerialTimes(cluster)
        tiers = make_tiers(cluster, config)
        *routing, expert_rng, draft_rng = np.random.default_rng(config.seed).spawn(4)
        waves = self._predict_waves(cluster, config, latencies, serial)
        for spec in cluster.instances:
            latency = latencies[spec.instance_id]
            routings = _expert_routings(spec, config, expert_rng)
            overhead = HostOverhead.of(config, latency)
            wave = waves.get(spec.instance_id)
            costs = make_costs(spec, latency, overhead, serial, routings[0], wave)
            admission = self._mover if spec.role is Role.PREFILL else None
            tier = tiers.get(spec.instance_id)
            drafts = draft_rng.spawn(1)[0]
            self.instances[spec.instance_id] = Instance(spec, costs, admission, tier, routings[1], drafts)
        self._stage_runs: dict[int, StageRun] = {}
        self._decode_specs = {spec.instance_id: spec for spec in cluster.with_role(Role.DECODE)}
        self._groups = self._form_groups(cluster, config, expert_rng)
        self._entries = [
            self.instances[s.instance_id] for s in cluster.with_role(Role.COLOCATED, Role.PREFILL)
        ]
        self._decoders = [self.instances[instance_id] for instance_id in self._decode_specs]
        self._prefillers = [entry for entry in self._entries if entry.spec.role is Role.PREFILL]
        router, router_args = config.request_routing_policy, dict(config.router_args)
        self._router = make_router(router, routing[0], router_args)
        self._decode_router = make_decode_router(router, routing[1], router_args)
        self._observers = observers
        self.requests = [request_of(spec, config.long_prompt_tokens) for spec in workload]
        """All requests, in order of request id."""
        self.max_concurrency = config.max_concurrency
        self._arrivals = Arrivals(self.requests, config.max_concurrency)
        self._running: dict[int, Sequence[Instance]] = {}
        self._ready: dict[int, Instance] = {}
        self._stop = False
        self.finished: list[Request] = []

    def _form_groups(
        self, cluster: Cluster, config: SimulationConfig, rng: np.random.Generator
    ) -> dict[int, DpGroup | PipelineGroup]:
        """Data-parallel groups and pipelines by the instances in them."""
        groups: dict[int, DpGroup | PipelineGroup] = {}
        for specs in cluster.dp_groups():
            members = [self.instances[spec.instance_id] for spec in specs]
            group: DpGroup | PipelineGroup
            group = wave = DpGroup(members, _expert_routings(specs[0], config, rng)[0])
            if specs[0].pp_size > 1:
                group = PipelineGroup(members, wave.stages_of, self._stage_runs, self)
            groups |= {spec.instance_id: group for spec in specs}
        for instance in self.instances.values():
            if instance.spec.pp_size > 1 and instance.instance_id not in groups:
                make = partial(self._stages_of, instance)
                groups[instance.instance_id] = PipelineGroup([instance], make, self._stage_runs, self)
        return groups

    def _stages_of(self, instance: Instance, formed: Sequence[Formed | None]) -> list[list[Trace]]:
        """Traces of an instance's batch, by pipeline stage."""
        (one,) = formed
        assert one is not None
        self._mover.count_sent(one.outgoing)
        stages = instance.traces.synthesize_stages(one.batch, one.kv_tokens(), self._decode_specs, one.moves)
        return [[trace] for trace in stages]

    @staticmethod
    def _predict_waves(
        cluster: Cluster, config: SimulationConfig, latencies: Mapping[int, LatencyModel], serial: SerialTimes
    ) -> dict[int, PredictedWave]:
        """How long waves take in which one instance has work, by that instance."""
        waves: dict[int, PredictedWave] = {}
        for specs in cluster.dp_groups():
            # apart from the run's own draws, and the same for all who ask
            routing, _ = _expert_routings(specs[0], config, np.random.default_rng(config.seed))
            waves |= predicted_waves(specs, latencies[specs[0].instance_id], routing, serial)
        return waves

    @property
    def counters(self) -> EngineCounters:
        """What the engine has counted so far: events, bytes."""
        return self.controller.counters

    def stop(self) -> None:
        """Ask the loop to end after the event it is at; what has finished stays in ``finished``."""
        self._stop = True

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped before all requests had finished."""
        return self._stop and len(self.finished) < len(self.requests)

    def run(self) -> None:
        """Run until every request has finished, or until :meth:`stop`."""
        while len(self.finished) < len(self.requests) and not self._stop:
            while self._ready:  # starting an instance may wake others
                self._start_iteration(self._ready.pop(next(iter(self._ready))))
            completions = self.controller.advance(self._arrivals.next_ns)
            for completion in completions:
                self._complete(completion)
            if not self._admit_arrivals() and not completions:
                raise SimulationStallError(self._stall_message())

    def _admit_arrivals(self) -> int:
        """Route the requests that have arrived by now; returns how many."""
        count, now_ns = 0, self.controller.now_ns
        while (next_ns := self._arrivals.next_ns) is not None and next_ns <= now_ns:
            self._route(self._arrivals.pop(now_ns))
            count += 1
        return count

    def _route(self, request: Request) -> None:
        entry = self._entries[self._router.route(request, self._entries)]
        request.instance_id = entry.instance_id
        entry.expect()
        if entry.spec.role is Role.PREFILL:
            request.prefill_instance_id = entry.instance_id
            if request.output_tokens > 1:
                decoder = self._decoders[self._decode_router.route(request, self._decoders)]
                request.decode_instance_id = decoder.instance_id
                decoder.expect()
        entry.scheduler.enqueue(request)
        self._wake(entry)

    def _wake(self, instance: Instance) -> None:
        if instance.in_flight is None:
            self._ready[instance.instance_id] = instance

    def _start_iteration(self, instance: Instance) -> None:
        group = self._groups.get(instance.instance_id)
        if group is not None:
            if isinstance(group, DpGroup):
                self._start_wave(group)
            else:
                group.fill()
            return
        formed = instance.ahead or self.form(instance)
        instance.ahead = None
        if formed is None:
            return
        self._submit(instance, formed)
        if instance.spec.scheduler.async_scheduling:
            instance.ahead = self.form(instance)

    def _start_wave(self, group: DpGroup) -> None:
        """Start an iteration of all instances of a group if one has work and none is in the last wave still."""
        if any(member.in_flight is not None for member in group.members):
            return
        formed = [self.form(member) for member in group.members]
        ready_ns = [one.ready_ns for one in formed if one is not None]
        if not ready_ns:
            return
        assert isinstance(self.controller, EngineController)  # load_cluster refuses other engines
        now_ns = self.controller.now_ns
        batches = [None if one is None else one.batch for one in formed]
        ticket, traces = group.submit(self.controller, batches, max(now_ns, *ready_ns))
        self._running[ticket] = group.members
        for member, one, trace in zip(group.members, formed, traces, strict=True):
            member.begin(one, ticket, now_ns)
            for observer in self._observers:
                observer.on_submit(member, trace, ticket)

    def form(self, instance: Instance) -> Formed | None:
        """The next batch of an instance, None if it has no work."""
        now_ns, scheduler, role = self.controller.now_ns, instance.scheduler, instance.spec.role
        starved = role is Role.DECODE and scheduler.starved
        batch = scheduler.schedule(now_ns)
        if starved and not scheduler.starved:
            self._wake_prefillers()
        if batch is None:
            return None
        if instance.kv_channels is not None:
            batch = instance.kv_channels.place(batch, scheduler.running)
        outgoing = self._mover.tokens_to_send(instance, batch) if role is Role.PREFILL else {}
        instance.host_free_ns = max(now_ns, instance.host_free_ns) + instance.host_ns(batch)
        moves = instance.take_moves(batch)
        return Formed(batch, instance.rows(), outgoing, moves, instance.host_free_ns)

    def _submit(self, instance: Instance, formed: Formed) -> None:
        """Start an iteration, as soon as the host has prepared it."""
        batch, now_ns = formed.batch, self.controller.now_ns
        trace = instance.traces.synthesize_trace(
            batch, formed.kv_tokens(), self._decode_specs, formed.moves[0]
        )
        ticket = self.controller.submit(trace, max(now_ns, formed.ready_ns))
        if formed.outgoing:
            self._mover.sent(ticket, formed.outgoing, all_layers=batch.layer_group.is_last)
        instance.begin(formed, ticket, now_ns)
        self._running[ticket] = (instance,)
        for observer in self._observers:
            observer.on_submit(instance, trace, ticket)

    def note_submitted(self, instance: Instance, formed: Formed | None, trace: Trace) -> None:
        """A pipeline stage of an instance's batch is with the engine."""
        assert instance.in_flight is not None
        ticket = instance.in_flight.ticket
        if formed is not None:
            self._mover.sent(ticket, formed.outgoing, all_layers=False)
        for observer in self._observers:
            observer.on_submit(instance, trace, ticket)

    def note_stage_end(self, instance: Instance, stage: int, end_ns: int) -> None:
        """A pipeline stage of an instance has ended its part of a batch."""
        for observer in self._observers:
            if isinstance(observer, StageObserver):
                observer.on_stage_end(end_ns, instance, stage)

    def _complete(self, completion: Completion) -> None:
        if self._stage_runs:
            run = self._stage_runs.get(completion.ticket)
            if run is not None and run.group.completed(run, completion):
                return
        if completion.part == _ITERATION_PART:
            for instance in self._running.pop(completion.ticket):
                self._finish_iteration(instance, completion.finish_ns)
        else:
            for request in self._mover.landed(completion.ticket, completion.part):
                self._hand_over(request)

    def _finish_iteration(self, instance: Instance, end_ns: int) -> None:
        assert instance.in_flight is not None
        batch = instance.in_flight.batch
        instance.busy_ns += end_ns - instance.in_flight.start_ns
        instance.in_flight = None
        self.settle(instance, batch, end_ns)

    def settle(self, instance: Instance, batch: Batch, end_ns: int) -> None:
        """A batch has ended: tokens out, blocks back, and whoever waited for that may try."""
        outcome = _NOTHING
        if batch is not NOBODYS:
            instance.iterations += 1
            if instance.tiers is not None and batch.layer_group.is_last:
                instance.tiers.commit()
            outcome = instance.scheduler.complete(end_ns)
        instance.forget(len(outcome.finished))
        self.finished += outcome.finished
        self._arrivals.note_finished(outcome.finished)
        for request in outcome.handed_over:
            if self._mover.is_complete(request):
                self._hand_over(request)
        self._wake(instance)
        if outcome.finished and instance.spec.role is Role.DECODE:
            self._wake_prefillers()
        for observer in self._observers:
            observer.on_iteration(end_ns, instance, batch, outcome)

    def _hand_over(self, request: Request) -> None:
        prefiller = self.instances[request.instance_id]
        self._wake(self._mover.hand_over(request))
        self._wake(prefiller)

    def _wake_prefillers(self) -> None:
        """A decode instance has room again, or none of its own who want it: whoever waits for it may try."""
        for prefiller in self._prefillers:
            self._wake(prefiller)

    def _stall_message(self) -> str:
        waiting = {
            instance_id: len(instance.scheduler.waiting)
            for instance_id, instance in self.instances.items()
            if len(instance.scheduler.waiting)
        }
        lines = [
            f"{len(self.requests) - len(self.finished)} of {len(self.requests)} requests can never finish",
            f"at {self.controller.now_ns} ns; waiting requests by instance: {waiting or 'none'}",
            *self._arrivals.stall_report(),
            *self.controller.stall_report(),
        ]
        return "; ".join(lines)


def _expert_routings(
    spec: InstanceSpec, config: SimulationConfig, rng: np.random.Generator
) -> list[ExpertRouting | None]:
    """Where an instance's tokens go in its predictions, and where they go; None twice for a dense model."""
    if not spec.model.is_moe:
        return [None, None]
    name, args = config.expert_routing_policy, dict(config.expert_routing_args)
    return [make_expert_routing(name, args, spec.model, one) for one in rng.spawn(2)]

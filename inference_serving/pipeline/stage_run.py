"""Pipeline parallelism at run time: batches on their way through the stages of an instance.

A stage of a batch is one submission to the engine, on the NPUs of that stage. It starts when the stage is free and
the activations of the stage before have landed, so that stages work on different batches at once, each on one at a
time and all in the same order. A data-parallel group goes through its stages together: a batch is then one of each
instance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from astra_sim import Completion
from inference_serving.controller import Controller, EngineController
from inference_serving.instance import NOBODYS, Formed, Instance
from inference_serving.request import Batch
from inference_serving.trace import Trace

_COMPUTE_PART = 0


@dataclass(slots=True, eq=False)
class StagedBatch:
    """A batch on its way: what each instance has formed (None: a dummy), and the traces, by stage and instance.

    ``numbers`` says which iteration it is of each instance; its host has it ready by ``ready_ns``.
    """

    formed: Sequence[Formed | None]
    numbers: Sequence[int]
    traces: Sequence[Sequence[Trace]]
    ready_ns: int
    start_ns: int = 0
    unfinished_stages: int = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished_stages = len(self.traces)

    def batch_of(self, member: int) -> Batch:
        """What an instance's scheduler and whoever watches see of it."""
        formed = self.formed[member]
        return NOBODYS if formed is None else formed.batch


@dataclass(slots=True)
class StageRun:
    """A stage of a batch in the engine, and how many parts of its ticket are left."""

    group: PipelineGroup
    batch: StagedBatch
    stage: int
    start_ns: int
    parts_left: int


class EventLoop(Protocol):
    """What stages need of the loop that they are a part of."""

    @property
    def controller(self) -> Controller:
        """The engine."""
        ...

    def form(self, instance: Instance) -> Formed | None:
        """The next batch of an instance, if it has work."""
        ...

    def note_submitted(self, instance: Instance, formed: Formed | None, trace: Trace) -> None:
        """An instance's ``in_flight`` is with the engine now."""
        ...

    def note_stage_end(self, instance: Instance, stage: int, end_ns: int) -> None:
        """A stage of an instance has nothing to do for now."""
        ...

    def settle(self, instance: Instance, batch: Batch, end_ns: int) -> None:
        """A batch is done: tokens out, blocks back."""
        ...


TraceMaker = Callable[[Sequence[Formed | None]], Sequence[Sequence[Trace]]]


class PipelineGroup:
    """One instance with stages, or the instances of a data-parallel group that have.

    ``make_traces`` makes the traces of a batch, by stage and instance. ``runs`` are the stages that the engine has,
    by ticket, those of all groups.
    """

    def __init__(
        self,
        members: Sequence[Instance],
        make_traces: TraceMaker,
        runs: dict[int, StageRun],
        loop: EventLoop,
    ) -> None:
        self.members = members
        self._make_traces = make_traces
        self._runs = runs
        self._loop = loop
        stages = members[0].spec.pp_size
        self._arrived: list[deque[StagedBatch]] = [deque() for _ in range(stages)]
        """Batches whose activations are there, for each stage."""
        self._busy = [False] * stages
        self._on_the_way: deque[StagedBatch] = deque()
        self._busy_until_ns = 0

    def fill(self) -> None:
        """Form batches until there are as many as stages, or no instance has work for another."""
        while len(self._on_the_way) < len(self._busy):
            formed = [self._loop.form(member) for member in self.members]
            ready_ns = [one.ready_ns for one in formed if one is not None]
            if not ready_ns:
                return
            numbers = [member.iterations + len(self._on_the_way) for member in self.members]
            batch = StagedBatch(formed, numbers, self._make_traces(formed), max(ready_ns))
            self._on_the_way.append(batch)
            self._arrived[0].append(batch)
            self._run(0)

    def completed(self, run: StageRun, completion: Completion) -> bool:
        """Go on after a part of a stage has completed; False if the part is none of the pipeline's."""
        batch, stage = run.batch, run.stage
        if completion.part == _COMPUTE_PART:
            self._end_stage(run, completion.finish_ns)
        elif completion.part == self._activation_part(batch, stage):
            self._arrived[stage + 1].append(batch)
            self._run(stage + 1)
        else:
            return False
        run.parts_left -= 1
        if not run.parts_left:
            del self._runs[completion.ticket]
        return True

    def _run(self, stage: int) -> None:
        """Start a stage on the batch that arrived there first, if it is free."""
        if self._busy[stage] or not self._arrived[stage]:
            return
        batch = self._arrived[stage].popleft()
        now_ns = self._loop.controller.now_ns
        traces = batch.traces[stage]
        if len(traces) > 1:
            engine = self._loop.controller
            assert isinstance(engine, EngineController)  # load_cluster refuses other engines
            ticket = engine.submit_wave(traces, max(now_ns, batch.ready_ns))
        else:
            ticket = self._loop.controller.submit(traces[0], max(now_ns, batch.ready_ns))
        self._busy[stage] = True
        if stage == 0:
            batch.start_ns = now_ns
        last = stage == len(self._busy) - 1
        self._runs[ticket] = StageRun(self, batch, stage, now_ns, 1 if last else 2)
        for index, (member, trace) in enumerate(zip(self.members, traces, strict=True)):
            member.begin(batch.formed[index], ticket, now_ns, batch.numbers[index])
            self._loop.note_submitted(member, batch.formed[index], trace)

    def _end_stage(self, run: StageRun, end_ns: int) -> None:
        batch, stage = run.batch, run.stage
        self._busy[stage] = False
        for member in self.members:
            member.stage_busy_ns[stage] += end_ns - run.start_ns
            self._loop.note_stage_end(member, stage, end_ns)
        batch.unfinished_stages -= 1
        if not batch.unfinished_stages:
            self._finish(end_ns)
        self._run(stage)

    def _finish(self, end_ns: int) -> None:
        """The oldest batch has come back: every stage starts its batches in order, so none overtakes another."""
        batch = self._on_the_way.popleft()
        busy_ns = end_ns - max(batch.start_ns, self._busy_until_ns)
        self._busy_until_ns = end_ns
        for index, member in enumerate(self.members):
            latest, member.in_flight = member.in_flight, None
            member.busy_ns += busy_ns
            self._loop.settle(member, batch.batch_of(index), end_ns)
            member.in_flight = latest if self._on_the_way else None

    def _activation_part(self, batch: StagedBatch, stage: int) -> int | None:
        transfer = batch.traces[stage][0].shape.hands_on
        return None if transfer is None else transfer.part

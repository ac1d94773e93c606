"""What a sweep consists of: YAML files to points, each of them one run of ``main.py``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from astra_sim.input_error import InputError
from dataset.research_hol_blocking.kinds import KINDS
from inference_serving.schema_base import PositiveCount, Section

HERE = Path(__file__).parent
CONFIGS = HERE / "config"
Load = Annotated[float, Field(gt=0)] | Annotated[str, Field(pattern=r"^[0-9.:,]+$")]


class PolicyEntry(Section):
    """A contestant: a scheduling policy, its options, and the token budget of its iterations."""

    policy: str
    args: str = ""
    chunk: PositiveCount | Literal["best"]


class Training(Section):
    """Where the best chunk of each policy is found: by p99 TTFT of the shorts, on a seed used for nothing else."""

    kinds: Annotated[list[str], Field(min_length=1)]
    load: float
    seed: int
    requests: PositiveCount
    cluster: str
    chunks: Annotated[list[PositiveCount], Field(min_length=1)]


class Experiment(Section):
    """A product of workloads, loads, arrival processes, seeds, clusters, routers and policies."""

    workloads: list[str]
    loads: list[Load]
    seeds: list[int]
    clusters: list[str]
    policies: list[str]
    requests: PositiveCount | None = None
    """None: as many as the phases of the load bring."""
    arrivals: list[str] = Field(default_factory=lambda: ["poisson"])
    routers: list[str] = Field(default_factory=lambda: ["RR"])


class Episode(Section):
    """The run of which a few seconds are drawn iteration by iteration."""

    workload: str
    load: float
    seed: int
    requests: PositiveCount
    cluster: str
    policies: list[str]


class Sweep(Section):
    """A sweep file."""

    training: Training
    experiments: dict[str, Experiment]
    episode: Episode | None = None


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """A generated workload, or (``kind`` is its path) a file that somebody gives."""

    kind: str
    load: str
    arrivals: str
    requests: int | None
    seed: int

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return Path(self.kind).stem if self.is_file else self.kind

    @property
    def is_file(self) -> bool:
        """Whether it is taken as it is."""
        return self.kind not in KINDS

    @property
    def warm_up(self) -> float:
        """Share of the first requests that statistics leave out; none where the first one is the point of it."""
        return 0.0 if not self.is_file and KINDS[self.kind].at_start else 0.05


@dataclass(frozen=True, slots=True)
class Point:
    """One run: a workload on a cluster under a router and a policy."""

    workload: WorkloadSpec
    cluster: str
    router: str
    contestant: str
    policy: str
    args: str
    chunk: int
    logged: bool = False
    """Whether iterations and waits are written too."""

    @property
    def cluster_file(self) -> Path:
        """Its cluster config."""
        return CONFIGS / f"{self.cluster}.json"

    @property
    def point_id(self) -> str:
        """A readable name that changes with anything that the run depends on, the simulator's sources apart."""
        work = self.workload
        facts = json.dumps(asdict(self), sort_keys=True) + self.cluster_file.read_text()
        if work.is_file:
            facts += hashlib.sha256(Path(work.kind).read_bytes()).hexdigest()
        digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
        parts = (work.name, work.load, work.arrivals, f"s{work.seed}", self.cluster, self.router)
        text = "_".join((*parts, self.contestant, str(self.chunk), digest))
        return re.sub(r"[^A-Za-z0-9_.+-]", "-", text)


Chunks = Mapping[tuple[str, str], int]
"""Best chunk by workload kind and contestant."""
ModelT = TypeVar("ModelT")


def _read(file: Path, kind: type[ModelT]) -> ModelT:
    try:
        return TypeAdapter(kind).validate_python(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(file, field, f"{first['msg']} (got {first['input']!r})") from None
    except yaml.YAMLError as error:
        raise InputError(file, "", f"not YAML: {error}") from None
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None


def read_policies(file: Path = HERE / "policies.yaml") -> dict[str, PolicyEntry]:
    """The contestants by name; raises InputError."""
    return _read(file, dict[str, PolicyEntry])


def read_sweep(file: Path, policies: Mapping[str, PolicyEntry]) -> Sweep:
    """A sweep file whose names are all known; raises InputError."""
    sweep = _read(file, Sweep)
    used = [(f"experiments.{name}", one.policies, one.clusters) for name, one in sweep.experiments.items()]
    if sweep.episode is not None:
        used.append(("episode", sweep.episode.policies, [sweep.episode.cluster]))
    used.append(("training", [], [sweep.training.cluster]))
    for where, contestants, clusters in used:
        for name in contestants:
            if name not in policies:
                raise InputError(file, f"{where}.policies", f"{name!r} is not in policies.yaml")
        for name in clusters:
            if not (CONFIGS / f"{name}.json").is_file():
                raise InputError(
                    file, f"{where}.clusters", f"{name!r}: there is no {CONFIGS.name}/{name}.json"
                )
    for name, one in sweep.experiments.items():
        for kind in one.workloads:
            if kind not in KINDS and not Path(kind).is_file():
                raise InputError(
                    file,
                    f"experiments.{name}.workloads",
                    f"{kind!r}: neither a file nor one of {', '.join(KINDS)}",
                )
    return sweep


def training_points(sweep: Sweep, policies: Mapping[str, PolicyEntry]) -> Iterator[Point]:
    """All runs from which best chunks are chosen."""
    training = sweep.training
    wanted = sorted({name for one in sweep.experiments.values() for name in one.policies})
    for kind in training.kinds:
        work = WorkloadSpec(kind, f"{training.load:g}", "poisson", training.requests, training.seed)
        for name in wanted:
            entry = policies[name]
            for chunk in training.chunks if entry.chunk == "best" else ():
                yield Point(work, training.cluster, "RR", name, entry.policy, entry.args, chunk)


def chunk_for(entry: PolicyEntry, name: str, kind: str, sweep: Sweep, chunks: Chunks) -> int | None:
    """Token budget of a contestant on a kind of workload; None if training has not found one.

    A kind that is not trained on takes the choice of the first that is.
    """
    if entry.chunk != "best":
        return entry.chunk
    trained_on = kind if kind in sweep.training.kinds else sweep.training.kinds[0]
    return chunks.get((trained_on, name))


def experiment_points(
    one: Experiment, sweep: Sweep, policies: Mapping[str, PolicyEntry], chunks: Chunks
) -> Iterator[Point]:
    """The runs of one experiment; those whose chunk is unknown are left out."""
    for work in _workloads(one):
        for name in one.policies:
            entry = policies[name]
            chunk = chunk_for(entry, name, work.kind, sweep, chunks)
            for cluster in one.clusters if chunk is not None else ():
                for router in one.routers:
                    assert chunk is not None
                    yield Point(work, cluster, router, name, entry.policy, entry.args, chunk)


def _workloads(one: Experiment) -> Iterator[WorkloadSpec]:
    for kind in one.workloads:
        if kind not in KINDS:
            yield WorkloadSpec(str(Path(kind).resolve()), "own", "own", None, 0)
            continue
        for load in one.loads:
            for arrivals in one.arrivals:
                for seed in one.seeds:
                    text = load if isinstance(load, str) else f"{load:g}"
                    yield WorkloadSpec(kind, text, arrivals, one.requests, seed)


def episode_points(sweep: Sweep, policies: Mapping[str, PolicyEntry], chunks: Chunks) -> list[Point]:
    """The runs whose iterations are logged."""
    if sweep.episode is None:
        return []
    given = sweep.episode
    one = Experiment(
        workloads=[given.workload],
        loads=[given.load],
        seeds=[given.seed],
        clusters=[given.cluster],
        policies=given.policies,
        requests=given.requests,
    )
    return [replace(point, logged=True) for point in experiment_points(one, sweep, policies, chunks)]

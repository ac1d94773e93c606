"""How much slower a machine ran during a real run than its latencies say: one factor for all of them.

A recorded run NAME.reqs.jsonl has its iterations in NAME.iters.jsonl: what each computed, and how long it took.
The factor is the median of their real over predicted times. It is taken from the run itself, so errors after it
test batching and queueing, not speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astra_sim.input_error import InputError
from inference_serving.config_builder import load_cluster
from inference_serving.flags import make_parser, simulation_config
from inference_serving.latencies import open_latencies
from inference_serving.validation.readers.base import records
from inference_serving.validation.run import Run
from llm_profile.calibrate_runs import Iteration
from llm_profile.iteration_time import iteration_ns

_REQUESTS, _ITERATIONS = ".reqs.jsonl", ".iters.jsonl"


@dataclass(frozen=True)
class Speed:
    """A fitted factor."""

    factor: float
    """Real over predicted time; above 1 the machine was slower."""
    iterations: int
    latencies: str
    """Name of the latency source that predicted."""
    error_before: float
    error_after: float
    """Median of |predicted / real - 1| of an iteration, without the factor and with it."""

    @property
    def text(self) -> str:
        """One line."""
        return (
            f"speed factor: {self.factor:.3f} (median of real over {self.latencies}, {self.iterations} iterations of "
            f"the run; median error of one {self.error_before:.1%} before, {self.error_after:.1%} after)"
        )


def fit_speed(run: Run, flags: Sequence[str]) -> Speed:
    """The factor of ``run`` over the latencies that the simulator's ``flags`` choose.

    Raises InputError if the run has no recorded iterations, or the cluster is more than one NPU: collectives and
    other instances are no part of a recorded iteration's prediction.
    """
    iterations = _read_iterations(_iterations_file(run.file))
    args = make_parser().parse_args([*run.flags, *flags, "--dataset", str(run.file)])
    config = simulation_config(args)
    cluster = load_cluster(args.cluster_config, config)
    if len(cluster.instances) != 1 or cluster.instances[0].tp_size != 1:
        raise InputError(
            cluster.file, "instances", "--fit-speed needs one instance of one NPU, as the run had"
        )
    (spec,) = cluster.instances
    latency = open_latencies(cluster, config)[spec.instance_id]
    predicted = np.array(
        [
            iteration_ns(latency, spec.model, one.prefill_q, one.prefill_context, one.decode_kv)
            for one in iterations
        ],
        dtype=np.float64,
    )
    real = np.array([one.ns for one in iterations])
    factor = float(np.median(real / predicted))
    before, after = (float(np.median(np.abs(scale * predicted / real - 1))) for scale in (1.0, factor))
    return Speed(factor, len(iterations), latency.name, before, after)


def _read_iterations(file: Path) -> list[Iteration]:
    iterations = []
    for where, event in records(file):
        if event.get("ev") == "it" and event.get("items"):
            try:
                iterations.append(Iteration(event))
            except (KeyError, TypeError, ValueError) as error:
                message = "is no iteration: it needs items (name, tokens, context, prompt) and t0 to t3 in s"
                raise InputError(file, where, message) from error
    if not iterations:
        raise InputError(file, "", "has no iterations that computed anything")
    return iterations


def _iterations_file(requests: Path) -> Path:
    name = requests.name.replace(_REQUESTS, _ITERATIONS)
    file = requests.with_name(name)
    if _REQUESTS not in requests.name or not file.is_file():
        wanted = f"{_REQUESTS}[.gz] and {_ITERATIONS}[.gz] beside it"
        raise InputError(requests, "", f"--fit-speed needs the iterations of the run: NAME{wanted}")
    return file

"""Fit a description to recorded iterations of a whole engine: a folder with ``prof2.jsonl.gz`` and its model.

An iteration takes ``base + token * tokens + kv * sum(decode KV) + pair * sum(n * (context + n / 2)) +
sequence * requests + context * sum(context)``. What the engine spends outside of the model (scheduling and
updating) is recorded and becomes the step overhead; the rest is put into matrix layers and attention. Norms,
rope, activation and embedding are not told apart by iterations: matrix layers carry their time.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.hardware import Coefficients, Decode, Elementwise, Gemm, Hardware, Prefill
from llm_profile.iteration_time import iteration_ns
from llm_profile.layers import (
    BLOCK_LAYERS,
    GEMM_LAYERS,
    heads_per_rank,
    kv_bytes_per_token,
    layer_shape,
)
from llm_profile.model_config import ModelConfig, load_model_config
from llm_profile.protocol import LatencyQuery
from llm_profile.roofline import RooflineLatencyModel

Floats = NDArray[np.float64]
FIT_RUN = "prof2.jsonl.gz"
ROUNDS = 30
INLIER = 0.05
"""Relative error beyond which an iteration counts linearly."""
FREE = Elementwise(fixed_ns=0, efficiency=1000, cached_efficiency=1000)


class Iteration:
    """Requests of one recorded iteration and its time in ns."""

    def __init__(self, event: dict[str, float | list[tuple[str, int, int, int]]]) -> None:
        items = event["items"]
        assert isinstance(items, list)
        decodes = [context + 1 for _, n, context, prompt in items if n == 1 and context >= prompt]
        prefills = [(n, context) for _, n, context, prompt in items if not (n == 1 and context >= prompt)]
        self.tokens = sum(n for _, n, _, _ in items)
        self.requests = len(items)
        self.decode_kv = np.array(decodes, dtype=np.int64)
        self.prefill_q = np.array([n for n, _ in prefills], dtype=np.int64)
        self.prefill_context = np.array([context for _, context in prefills], dtype=np.int64)
        at = [float(event[name]) for name in ("t0", "t1", "t2", "t3")]  # type: ignore[arg-type]  # times, not items
        self.ns = (at[3] - at[0]) * 1e9
        self.host_ns = (at[1] - at[0] + at[3] - at[2]) * 1e9

    def features(self) -> list[float]:
        """What the coefficients of an iteration's time are multiplied with."""
        pairs = (self.prefill_q * (self.prefill_context + self.prefill_q / 2)).sum()
        kv, context = self.decode_kv.sum(), self.prefill_context.sum()
        return [1.0, self.tokens, float(kv), float(pairs), self.requests, float(context)]


def read_run(file: Path) -> list[Iteration]:
    """Iterations of a recorded run that computed anything."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        events = [json.loads(line) for line in stream]
    iterations = [Iteration(event) for event in events if event["ev"] == "it" and event["items"]]
    if not iterations:
        raise InputError(file, "", "no iterations in this run")
    return iterations


def fit_iterations(iterations: list[Iteration]) -> Floats:
    """Coefficients of :meth:`Iteration.features`, in ns: relative errors, outliers counting linearly."""
    features = np.array([iteration.features() for iteration in iterations])
    ns = np.array([iteration.ns for iteration in iterations])
    weight = 1 / ns
    for _ in range(ROUNDS):
        solution = np.linalg.lstsq(features * weight[:, None], ns * weight, rcond=None)[0]
        error = np.abs(features @ solution / ns - 1)
        weight = 1 / (ns * np.sqrt(np.maximum(error / INLIER, 1)))
    return np.asarray(solution, dtype=np.float64)


def fit_run(card: Hardware, folder: Path) -> tuple[Coefficients, int]:
    """Coefficients and step overhead (ns) from the run in ``folder``."""
    model = load_model_config(folder / "model_config.json")
    iterations = read_run(folder / FIT_RUN)
    overhead_ns = round(float(np.median([iteration.host_ns for iteration in iterations])))
    solution = fit_iterations(iterations)
    if (solution <= 0).any():
        raise InputError(folder / FIT_RUN, "", "does not determine the cost of tokens, KV and pairs")
    return _coefficients(card, model, solution, overhead_ns), overhead_ns


def _coefficients(card: Hardware, model: ModelConfig, solution: Floats, overhead_ns: int) -> Coefficients:
    """Say the same in the words of a description; sums, not maxima: one core does not overlap."""
    base, token, kv, pair, sequence, context = solution.tolist()
    bandwidth, flops_ns, depth = (
        card.memory.bandwidth_gbps,
        card.peak_tflops.fp16 * 1e3,
        model.num_hidden_layers,
    )
    heads, _ = heads_per_rank(model, 1)
    shapes = [layer_shape(model, layer, 1) for layer in BLOCK_LAYERS if layer in GEMM_LAYERS] * depth
    head = layer_shape(model, "lm_head", 1)
    weight_bytes = 2 * sum(shape.weight_elements for shape in [*shapes, head])
    read_gbps = weight_bytes / (base - overhead_ns)
    moved_ns = 2 * sum(shape.input_width + shape.output_width for shape in shapes) / read_gbps
    compute_flops_ns = sum(shape.flops_per_token for shape in shapes) / (token - moved_ns)
    request_ns = sequence - head.flops_per_token / compute_flops_ns
    first_ns, pair_ns = (
        context / depth,
        pair / depth / heads,
    )  # a chunk's pass over its keys; a pair of a head

    def short(value: float) -> float:
        return float(f"{value:.4g}")

    return Coefficients(
        gemm=Gemm(
            fixed_ns=0,
            memory_efficiency=short(read_gbps / bandwidth),
            compute_efficiency=short(compute_flops_ns / flops_ns),
            wave=0,
            sharpness=1,
        ),
        norm=FREE,
        rope=FREE,
        activation=FREE,
        embedding=FREE,
        prefill=Prefill(
            fixed_ns=short(request_ns / depth),
            efficiency=short(4 * model.head_dim / (flops_ns * (first_ns + pair_ns))),
            crowding=short(pair_ns / (first_ns + pair_ns)),
            tail=0,
            tile_rows=1,
        ),
        decode=Decode(
            fixed_ns=0,
            head_ns=short(request_ns / depth / heads),
            efficiency=short(depth * kv_bytes_per_token(model, 1) / kv / bandwidth),
            stream_gbps=1e6,
            block_tokens=1,
            sharpness=1,
        ),
    )


def _predicted_ns(latency: RooflineLatencyModel, model: ModelConfig, iteration: Iteration) -> int:
    batch = iteration.prefill_q, iteration.prefill_context, iteration.decode_kv
    return iteration_ns(latency, model, *batch)


def run_errors(card: Hardware, folder: Path) -> dict[str, tuple[float, float]]:
    """Median and 90th percentile of the relative error of an iteration, for every run in ``folder``."""
    model = load_model_config(folder / "model_config.json")
    latency = RooflineLatencyModel(card, LatencyQuery(card.name, model, 1))
    errors = {}
    for file in [folder / FIT_RUN, *sorted(folder.glob("*.iters.jsonl.gz"))]:
        run = read_run(file)
        error = np.abs([_predicted_ns(latency, model, one) / one.ns - 1 for one in run])
        name = file.name.split(".")[0]
        errors[f"{name} iteration"] = (float(np.median(error)), float(np.quantile(error, 0.9)))
    return errors


def fitted_range(folder: Path) -> dict[str, int]:
    """Largest iterations that were fitted, in the words of :class:`~llm_profile.hardware.Fit`."""
    run = read_run(folder / FIT_RUN)
    return {
        "max_tokens": max(one.tokens for one in run),
        "max_keys": int(max((one.prefill_q + one.prefill_context).max(initial=0) for one in run)),
        "max_requests": max(one.decode_kv.size for one in run),
        "max_kv": int(max(one.decode_kv.sum() for one in run)),
    }

"""Measure one point, or one iteration of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from llm_profile.layers import heads_per_rank
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.attention import Heads, KvBatch
from llm_profile.profiler.batch import BatchShape, DecodeKernel
from llm_profile.profiler.device import Device
from llm_profile.profiler.model import Rank, Weights, sample
from llm_profile.profiler.moe import Experts
from llm_profile.profiler.plan import Kind, Point
from llm_profile.profiler.samples import Times
from llm_profile.profiler.timing import UNTIMED, Stamp, timed

COOLING_BYTES = 64 * 2**20
"""At most this much is read before a shot, in place of the weights of a block or of the LM head."""
FEW_DECODES, SHORT_KV = 8, 256
"""Attention between the layers that are measured: up to so many decodes, the other tokens as one prompt."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Setup:
    """What is measured, and how."""

    model: ModelConfig
    tp_size: int
    dtype: str
    blocks: int
    """Blocks with weights and KV of their own, so that none is found in a cache by accident."""
    kernel: DecodeKernel
    repeats: int
    """Shots a point, at least."""

    @property
    def heads(self) -> Heads:
        """Heads of the rank."""
        q, kv = heads_per_rank(self.model, self.tp_size)
        return Heads(q, kv, self.model.head_dim)


class Measurer:
    """Measures the points of one model on one device."""

    def __init__(self, setup: Setup, device: Device) -> None:
        self._setup = setup
        self._device = device
        self._weights = Weights(DTYPES[setup.dtype], device.kind)
        self._rank: Rank | None = None
        self._experts: Experts | None = None
        self._cold_block = self._weights.normal(_cold_elements(setup, _block_elements(setup)))
        self._cold_head = self._weights.normal(
            _cold_elements(setup, setup.model.hidden_size * setup.model.vocab_size)
        )

    def measure(self, point: Point) -> Times:
        """Times of every layer of ``point``."""
        measures: dict[Kind, Callable[..., Times]] = {
            Kind.SPLIT_LAYERS: lambda tokens: self._layers(tokens, fused=False),
            Kind.FUSED_LAYERS: lambda tokens: self._layers(tokens, fused=True),
            Kind.SEQUENCES: self._sequences,
            Kind.ATTENTION: self._attention,
            Kind.SKEW: self._skew,
            Kind.EXPERT: self._expert,
            Kind.MOE: self._moe,
        }
        with torch.inference_mode():
            return measures[point.kind](*point.key)

    def _layers(self, tokens: int, *, fused: bool) -> Times:
        times = self._iteration(self._rank_of(fused), tokens, sequences=0)
        return {name: stats for name, stats in times.items() if name != "attn"}

    def _sequences(self, sequences: int) -> Times:
        """LM head and sampler after the blocks, which leave nothing of its weights in a cache."""
        rank = self._rank_of(self._rank.fused if self._rank else True)
        times = self._iteration(rank, sequences, sequences)
        return {name: times[name] for name in ("lm_head", "sampler")}

    def _iteration(self, rank: Rank, tokens: int, sequences: int) -> Times:
        """Every layer within an iteration; one without ``sequences`` has no LM head, only what it would evict."""
        decodes = min(tokens, FEW_DECODES)
        prompt = tokens - decodes
        shape = BatchShape(((prompt, 0),) if prompt else (), (SHORT_KV,) * decodes)
        batch = self._batch(shape)
        kind = self._device.kind
        rows = torch.arange(sequences, device=kind) if sequences else None
        inputs = rank.inputs(torch.tensor(shape.positions(), device=kind), rows)

        def run(stamp: Stamp) -> None:
            out = rank.forward(inputs, batch.attend, stamp)
            if sequences:
                sample(out)
                stamp("sampler")

        return self._timed(run)

    def _attention(self, chunk: int, context: int, requests: int, kv: int) -> Times:
        prefill = ((chunk, context),) if chunk else ()
        return self._batches({"attn": BatchShape(prefill, (kv,) * requests)})

    def _skew(self, chunk: int, context: int, requests: int, long: int, short_kv: int, long_kv: int) -> Times:
        prefill = ((chunk, context),) if chunk else ()
        lengths = [long_kv] * long + [short_kv] * (requests - long)
        mean_kv = round(sum(lengths) / requests)
        decodes = {"mean": [mean_kv] * requests, "max": [long_kv] * requests, "skew": lengths}
        return self._batches({name: BatchShape(prefill, kv) for name, kv in decodes.items()})

    def _batches(self, shapes: dict[str, BatchShape]) -> Times:
        """Attention of several batches, turn by turn, so that a disturbance meets all of them."""
        setup, heads = self._setup, self._setup.heads
        batches = {name: self._batch(shape) for name, shape in shapes.items()}
        tokens = next(iter(shapes.values())).tokens
        q = self._weights.normal(tokens, heads.q, heads.dim)
        k, v = (self._weights.normal(tokens, heads.kv, heads.dim) for _ in "kv")

        def run(stamp: Stamp) -> None:
            for block in range(setup.blocks):
                for name, batch in batches.items():
                    self._cool(stamp, self._cold_block)
                    batch.attend(block, q, k, v)
                    stamp(name)

        return self._timed(run)

    def _batch(self, shape: BatchShape) -> KvBatch:
        setup = self._setup
        return KvBatch(shape, setup.heads, self._weights, blocks=setup.blocks, kernel=setup.kernel)

    def _expert(self, tokens: int) -> Times:
        experts, x = self._experts_of_model(), self._weights.normal(tokens, self._setup.model.hidden_size)
        count = self._setup.model.num_experts
        return self._timed(
            lambda stamp: [experts.one_by_one(x, i, stamp) for i in range(min(count, self._setup.blocks))]
        )

    def _moe(self, tokens: int, activated: int) -> Times:
        experts, x = self._experts_of_model(), self._weights.normal(tokens, self._setup.model.hidden_size)
        rows = experts.rows_of_experts(tokens, activated)
        return self._timed(lambda stamp: experts.forward(x, rows, stamp))

    def _cool(self, stamp: Stamp, read_between: torch.Tensor) -> None:
        """Read as much as a real iteration reads in between, so that caches hold no more than they would then."""
        read_between.sum()
        stamp(UNTIMED)

    def _timed(self, run: Callable[[Stamp], object]) -> Times:
        """Time ``run``, each time after what an iteration reads besides the blocks."""

        def cold_run(stamp: Stamp) -> None:
            self._cool(stamp, self._cold_head)
            run(stamp)

        return timed(cold_run, self._device.clock, self._setup.repeats)

    def _rank_of(self, fused: bool) -> Rank:
        """The model in the wanted form; only one is kept, since it may fill the device."""
        if self._rank is None or self._rank.fused != fused:
            self._rank = None
            setup = self._setup
            self._rank = Rank(setup.model, setup.tp_size, self._weights, blocks=setup.blocks, fused=fused)
        return self._rank

    def _experts_of_model(self) -> Experts:
        if self._experts is None:
            self._experts = Experts(self._setup.model, self._setup.tp_size, self._weights)
        return self._experts


class WholeModel:
    """Every block of the model, for iterations measured in one go; ``fused`` ones end with the sampler."""

    def __init__(self, setup: Setup, device: Device, *, fused: bool) -> None:
        self._setup, self._device = setup, device
        self._weights = Weights(DTYPES[setup.dtype], device.kind)
        blocks = setup.model.num_hidden_layers
        with torch.inference_mode():
            self._rank = Rank(setup.model, setup.tp_size, self._weights, blocks=blocks, fused=fused)

    def iteration_ns(self, shape: BatchShape) -> float:
        """Median time of one iteration of a batch, without the making of its inputs."""
        setup, rank, kind = self._setup, self._rank, self._device.kind
        with torch.inference_mode():
            batch = KvBatch(shape, setup.heads, self._weights, blocks=len(rank.blocks), kernel=setup.kernel)
            rows = torch.tensor(shape.last_rows(), device=kind)
            inputs = rank.inputs(torch.tensor(shape.positions(), device=kind), rows)

            def run(stamp: Stamp) -> None:
                logits = rank.forward(inputs, batch.attend, lambda _: None)
                if rank.fused:
                    sample(logits)
                stamp("iteration")

            return timed(run, self._device.clock, setup.repeats)["iteration"].median


def _block_elements(setup: Setup) -> int:
    model = setup.model
    hidden, width = model.hidden_size, model.head_dim * (model.num_attention_heads * 2)
    columns = model.moe_intermediate_size * model.num_experts_per_tok or model.intermediate_size
    elements: int = hidden * (width + 3 * columns)
    return elements


def _cold_elements(setup: Setup, elements: int) -> int:
    most: int = COOLING_BYTES // DTYPES[setup.dtype].itemsize
    return min(elements // setup.tp_size, most)

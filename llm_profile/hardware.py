"""Hardware descriptions: a YAML with a card's datasheet and, if it was calibrated, a few fitted coefficients.

``llm_profile/hardware/{name}.yaml`` of the current directory is looked at first, then the project's. The
formulas with the coefficients are in :mod:`llm_profile.roofline`; :mod:`llm_profile.calibrate` fits them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from astra_sim.input_error import InputError, validated

PROJECT_HARDWARE_DIR = Path(__file__).resolve().parent / "hardware"

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sharpness = Annotated[float, Field(ge=1, le=16)]
"""p of the p-norm that stands for a maximum: 1 adds both times (no overlap), large is a sharp roofline."""


class _Part(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)


class Memory(_Part):
    """Device memory, in the datasheet's units (1e9)."""

    bandwidth_gbps: PositiveFloat
    size_gb: PositiveFloat


class PeakTflops(_Part):
    """Dense matrix throughput, 1e12 flops a second, without sparsity."""

    fp16: PositiveFloat
    fp8: PositiveFloat | None = None
    """8-bit; absent: 8-bit weights are computed at the fp16 rate."""
    fp32: PositiveFloat | None = None
    """32-bit; absent: half the fp16 rate."""


class Gemm(_Part):
    """``fixed + pnorm(bytes / (bandwidth * memory_efficiency), compute * (1 + throttle * long))``.

    ``compute = flops * fill * (1 + ramp / input_width) / (peak * compute_efficiency)``. ``fill = (tokens + padding *
    (whole tiles of 128 tokens - tokens) + wave * multiprocessors * 128^2 / output_width) / tokens``: kernels compute
    part of what is missing of a tile, and a matrix of few 128 x 128 tiles cannot fill the card. Beginning and ending
    a tile takes as long as ``ramp`` elements of the dimension that it sums over. A card keeps its boost clock for
    some hundred microseconds of full load; ``long = compute / (compute + 250 us)`` is how far it has fallen by the
    end of a kernel. With ``fused_qkv``, q_proj stands for q, k and v in one kernel and the other two take no time;
    with ``fused_gate_up``, gate_proj for gate and up.
    """

    fixed_ns: NonNegative = 5000.0
    memory_efficiency: PositiveFloat = 0.93
    compute_efficiency: PositiveFloat = 0.72
    wave: NonNegative = 0.07
    padding: Annotated[float, Field(ge=0, le=1)] = 0.0
    ramp: NonNegative = 0.0
    throttle: NonNegative = 0.0
    sharpness: Sharpness = 2.5
    fused_qkv: bool = False
    fused_gate_up: bool = False


class Elementwise(_Part):
    """``fixed + cached / (bandwidth * cached_efficiency) + rest / (bandwidth * efficiency)``.

    Bytes up to ``cache_mb / working_set`` are ``cached``, since an operation of several kernels touches
    ``working_set`` times its inputs and outputs. The generic values are those of fused kernels.
    """

    fixed_ns: NonNegative = 3000.0
    efficiency: PositiveFloat = 0.8
    cached_efficiency: PositiveFloat = 0.8
    working_set: PositiveFloat = 1.0


class Prefill(_Part):
    """``fixed + key_ns * ((1 + (waves - 1) * crowding) * (context + n / 2) + tail * n)`` for a chunk of n.

    A multiprocessor holds a tile of ``tile_rows`` queries of one head against one key in ``key_ns = 4 *
    tile_rows * head_dim / (peak / multiprocessors * efficiency)``. The tiles of all heads run in ``waves =
    ceil(heads * ceil(n / tile_rows) / multiprocessors)``, so a short chunk takes as long as one tile; each
    wave after the first costs ``crowding`` times the first. Causal tiles see half of the chunk's own keys in
    the mean; ``tail`` is what the longest add at the end (0.5 makes a single wave see all of them).
    """

    fixed_ns: NonNegative = 5000.0
    efficiency: PositiveFloat = 0.6
    crowding: PositiveFloat = 1.0
    tail: NonNegative = 0.7
    tile_rows: PositiveInt = 64


class DecodeSplits(_Part):
    """A decode kernel that splits keys: see :mod:`llm_profile.split_decode`.

    A part of a K/V head of a request takes ``tile_ns`` and its keys at ``stream_gbps`` of :class:`Decode`; parts run
    in waves over two slots a multiprocessor. Combining them takes ``combine_ns + split_ns * parts``. ``copy_ns`` is
    what bringing queries and results into the order of K/V heads takes: nothing for one request or one K/V head.
    """

    tile_ns: NonNegative = 2000.0
    combine_ns: NonNegative = 2500.0
    split_ns: NonNegative = 150.0
    copy_ns: NonNegative = 4000.0


class Decode(_Part):
    """``fixed + pnorm(longest, head_ns * heads * n + (KV / efficiency + cold * min(KV, cache)) / bandwidth)``.

    ``longest`` is one head's pass over the longest KV at ``stream_gbps``. KV lengths are rounded up to
    ``block_tokens``. With ``gqa_packed`` a K/V head is read once for all its query heads, else once for each
    (kernels without grouped-query packing). ``cold`` is what each byte of KV takes longer until the batch has
    replaced the contents of the cache; ``lone`` times ``fixed`` is the fixed cost of a single request. A batch of
    uneven lengths without a prefill costs as if each KV were longer by ``skew`` times its distance to the longest.
    With ``splits`` the p-norm is taken wave by wave, each at least one pass over a part of the keys.
    """

    fixed_ns: NonNegative = 4000.0
    head_ns: NonNegative = 1.0
    efficiency: PositiveFloat = 0.85
    cold: NonNegative = 0.0
    lone: Annotated[float, Field(gt=0, le=1)] = 1.0
    stream_gbps: PositiveFloat = 400.0
    block_tokens: PositiveInt = 16
    gqa_packed: bool = True
    skew: Annotated[float, Field(ge=0, le=1)] = 0.0
    sharpness: Sharpness = 2.0
    splits: DecodeSplits | None = None
    """Absent: the keys of a request are not split, or the card hides it."""


class Moe(_Part):
    """``fixed + sum over experts with tokens of (expert + pnorm(bytes / (bandwidth * memory_efficiency), flops /
    (peak * compute_efficiency)))``.

    An expert's weights are read once if it got tokens; its tokens are rounded up to ``block_tokens`` rows of a
    matrix kernel. Experts that run one after the other, as in the published tables, pay their launches in
    ``expert_ns``; grouped kernels (vLLM's) pay one ``fixed_ns``.
    """

    fixed_ns: NonNegative = 20000.0
    expert_ns: NonNegative = 0.0
    memory_efficiency: PositiveFloat = 0.9
    compute_efficiency: PositiveFloat = 0.55
    block_tokens: PositiveInt = 16
    sharpness: Sharpness = 4.0


class Router(_Part):
    """``matrix + fixed + token_ns * tokens``: a matrix kernel, softmax and the choice of experts.

    ``in_experts``: the router was measured with the experts and takes no time of its own.
    """

    fixed_ns: NonNegative = 5000.0
    token_ns: NonNegative = 1.0
    in_experts: bool = False


class Mixed(_Part):
    """Decodes in the kernel of a prefill, on cards where one kernel serves both (``shared_attention_kernel``).

    Every request and head gets as many tiles as the longest chunk. The tile of a decode takes ``tile_ns``, and
    ``walk`` times as long as a prefill's for each key (in blocks of 64); a tile without queries ``empty_ns``. K and V
    are read at ``memory_efficiency`` of the bandwidth.
    """

    tile_ns: NonNegative = 3000.0
    empty_ns: NonNegative = 440.0
    walk: PositiveFloat = 1.1
    memory_efficiency: Annotated[float, Field(gt=0, le=1)] | None = None
    """Absent: the efficiency of decodes alone, at most 1."""


class Coefficients(_Part):
    """What is fitted; the defaults are generic values for a card of which only the datasheet is known."""

    gemm: Gemm = Gemm()
    norm: Elementwise = Elementwise()
    rope: Elementwise = Elementwise()
    activation: Elementwise = Elementwise()
    embedding: Elementwise = Elementwise()
    prefill: Prefill = Prefill()
    decode: Decode = Decode()
    router: Router = Router()
    moe: Moe = Moe()
    mixed: Mixed = Mixed()


class FitError(_Part):
    """Median and 90th percentile of |predicted / measured - 1|."""

    median: NonNegative
    p90: NonNegative


class Fit(_Part):
    """What the coefficients were fitted to, and how well."""

    data: str
    max_tokens: PositiveInt = 2048
    """Largest token count of a layer; times beyond it, and attention beyond the next three, are extrapolated."""
    max_keys: NonNegativeInt = 0
    """Most keys of a prefill, chunk and context together."""
    max_requests: NonNegativeInt = 0
    max_kv: NonNegativeInt = 0
    """Most requests of a decode batch, and most KV tokens of all its requests."""
    errors: dict[str, FitError] = {}


class Hardware(_Part):
    """One card."""

    name: str
    source: str
    """Where the datasheet numbers are from."""
    memory: Memory
    peak_tflops: PeakTflops
    link_gbps: PositiveFloat | None = None
    """Bandwidth to a neighbour card, one direction."""
    multiprocessors: PositiveInt = 100
    shared_attention_kernel: bool = False
    """Whether one kernel serves the prefills and the decodes of a batch (FlashAttention 2, before Hopper), and packs no
    query heads of models with a sliding window."""
    cache_mb: PositiveFloat = 30.0
    """Last-level cache, 1e6 bytes."""
    step_overhead_ns: NonNegativeInt = 0
    """Launch and host time of one iteration; 0 unless calibrated against a whole engine."""
    coefficients: Coefficients | None = None
    """Absent: generic efficiencies, and results are labelled estimated."""
    fit: Fit | None = None


def peak_flops_per_ns(card: Hardware, bits: int) -> float:
    """Peak of ``bits``-wide arithmetic; what the datasheet does not name is derived from fp16."""
    peak = card.peak_tflops
    tflops = {8: peak.fp8 or peak.fp16, 16: peak.fp16, 32: peak.fp32 or peak.fp16 / 2}[bits]
    return tflops * 1e3


def hardware_dirs() -> tuple[Path, ...]:
    """Folders searched for descriptions."""
    return (Path.cwd() / "llm_profile" / "hardware", PROJECT_HARDWARE_DIR)


def known_hardware() -> list[str]:
    """Names that :func:`load_hardware` finds, sorted."""
    return sorted({file.stem for folder in hardware_dirs() for file in folder.glob("*.yaml")})


def find_hardware(name: str) -> Path | None:
    """File that describes ``name``, if there is one."""
    return next((file for d in hardware_dirs() if (file := d / f"{name}.yaml").is_file()), None)


def load_hardware(file: Path) -> Hardware:
    """Read a description; :class:`InputError` for YAML that is broken, unknown keys and impossible values."""
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, "", f"cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else ""
        raise InputError(file, where, f"not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise InputError(file, "", f"the top level must be a mapping, not {type(data).__name__}")
    return validated(Hardware, data, file)


def datasheet_bandwidth_gbps(name: str) -> float | None:
    """Memory bandwidth of a described card, else None."""
    file = find_hardware(name)
    return load_hardware(file).memory.bandwidth_gbps if file else None


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

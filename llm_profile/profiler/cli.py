"""Command line of the profiler: the identity of a profile, and the order of its steps."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.layers import check_tp_size
from llm_profile.model_config import ModelConfig, load_model_config
from llm_profile.profiler.batch import DecodeKernel
from llm_profile.profiler.bundle import bundle_files
from llm_profile.profiler.check import check_text, compare, drift_of
from llm_profile.profiler.flags import BITS, VARIANTS, parser, refuse, refuse_beyond_tables, refuse_check
from llm_profile.profiler.journal import Identity, Journal
from llm_profile.profiler.meta import meta_text
from llm_profile.profiler.plan import Grid, Kind, Layout, Part, plan
from llm_profile.profiler.power import NoPowerError, PowerSampler, open_nvml
from llm_profile.profiler.run import PointMeasurer, measure_missing
from llm_profile.profiler.skew_fit import fit_buckets, skew_samples
from llm_profile.profiler.store import replace_file, write_tables
from llm_profile.profiler.tables import Measured, v1_files

if TYPE_CHECKING:
    from llm_profile.profiler.device import Device
    from llm_profile.profiler.measure import Setup

_SOURCES = {Layout.V1: "tables", Layout.BUNDLE: "bundle"}
_FILES = {
    Part.LAYERS: {"layers.csv", "dense.csv", "per_sequence.csv", "moe.csv"},
    Part.ATTENTION: {"attention.csv", "skew.csv", "skew_fit.csv"},
}
"""Tables of a part; those of the other are left as they are, since its points may not be complete."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, write tables, and check them if asked to; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        refuse(options)
        return _profile(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():  # of PyTorch's errors, the allocators' only
            raise
        print(f"error: the device's memory is too small: {error}; use fewer --blocks", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _profile(options: argparse.Namespace) -> int:
    from llm_profile.profiler.device import open_device  # noqa: PLC0415  (torch is optional)
    from llm_profile.profiler.measure import Measurer  # noqa: PLC0415  (torch is optional)

    model = load_model_config(options.model)
    check_tp_size(model, options.tp)
    refuse_beyond_tables(model)
    if options.check:
        refuse_check(options, model)
    setup = _setup(options, model)
    device = open_device(options.device, options.threads, options.clock)
    identity = _identity(options, setup, device)
    folder = options.output / options.hardware / model.name
    file = folder / f"profile-tp{options.tp}-{VARIANTS[options.dtype]}.jsonl"
    if options.fresh:
        file.unlink(missing_ok=True)
    points = plan(model, _grid(options), options.layout, options.only)
    with Journal(file, identity) as journal:
        there = sum(point in journal.points for point in points)
        with ExitStack() as stack:
            sampler = _power_sampler(options, stack)
            listeners = [sampler] if sampler else []
            measurer = Measurer(setup, device)
            new = measure_missing(points, journal, measurer, listeners)
        print(f"{new} points measured, {there} were there: {file}")
        for layout in _layouts(options):
            _write(options, model, identity, journal, layout)
        if sampler and new:
            power = folder / f"tp{options.tp}" / "power.csv"
            replace_file(power, sampler.csv())
            print(power)
    if options.check:
        _print_checks(options, setup, device, measurer, journal.points)
    return 0


def _layouts(options: argparse.Namespace) -> list[Layout]:
    return list(_SOURCES) if options.layout == Layout.BOTH else [options.layout]


def _grid(options: argparse.Namespace) -> Grid:
    return Grid(
        options.max_tokens,
        options.max_seqs,
        options.max_context,
        options.max_batch_kv,
        options.density,
        not options.no_skew,
    )


def _setup(options: argparse.Namespace, model: ModelConfig) -> Setup:
    from llm_profile.profiler.measure import Setup  # noqa: PLC0415  (torch is optional)

    kernel = options.decode_kernel
    if kernel == "auto":
        kernel = "loop" if options.device == "cpu" else "padded"
    blocks = options.blocks or min(4, model.num_hidden_layers)
    return Setup(model, options.tp, options.dtype, blocks, DecodeKernel(kernel), options.repeats)


def _identity(options: argparse.Namespace, setup: Setup, device: Device) -> Identity:
    import torch  # noqa: PLC0415  (torch is optional)

    facts = setup.model.model_dump_json(exclude={"name", "num_hidden_layers"})
    return {
        "profile": 1,
        "hardware": options.hardware,
        "device": device.name,
        "model": setup.model.name,
        "model_sha256": hashlib.sha256(facts.encode()).hexdigest(),
        "tp": setup.tp_size,
        "dtype": setup.dtype,
        "torch": str(torch.__version__),
        "threads": options.threads,
        "clock": options.clock,
        "blocks": setup.blocks,
        "decode_kernel": str(setup.kernel),
    }


def _power_sampler(options: argparse.Namespace, stack: ExitStack) -> PowerSampler | None:
    """A running sampler on CUDA; elsewhere a line that says why there is no power.csv."""
    try:
        if options.device != "cuda":
            raise NoPowerError("NVML reads NVIDIA cards only")
        return stack.enter_context(open_nvml())
    except NoPowerError as error:
        print(f"power is not measured: {error}", file=sys.stderr)
        return None


def _query(options: argparse.Namespace, model: ModelConfig) -> LatencyQuery:
    bits = BITS[options.dtype]
    folder = options.output
    return LatencyQuery(
        options.hardware, model, options.tp, weight_bits=bits, kv_bits=bits, profile_dir=folder
    )


def _write(
    options: argparse.Namespace, model: ModelConfig, identity: Identity, journal: Journal, layout: Layout
) -> None:
    """Write the tables of one layout and print where they are."""
    folder = Path(options.hardware) / model.name
    tp = f"tp{options.tp}"
    files: dict[Path, str]
    if layout == Layout.V1:
        texts = v1_files(journal.points, model, options.tp)
        files = {folder / tp / name: text for name, text in texts.items()}
    else:
        variant = VARIANTS[options.dtype]
        buckets = fit_buckets(skew_samples(journal.points))
        texts = bundle_files(journal.points, buckets)
        files = {folder / variant / tp / name: text for name, text in texts.items()}
        meta = folder / variant / "meta.yaml"
        files[meta] = meta_text(
            options.output / meta,
            identity=identity,
            model=model,
            tp_size=options.tp,
            variant=variant,
            grid=_grid(options),
            repeats=options.repeats,
            buckets=buckets,
        )
    wanted = _FILES.get(options.only, {name for names in _FILES.values() for name in names}) | {"meta.yaml"}
    files = {file: text for file, text in files.items() if file.name in wanted}
    for file in write_tables(options.output, files, _query(options, model), _SOURCES[layout]):
        print(file)


def _print_checks(
    options: argparse.Namespace, setup: Setup, device: Device, measurer: PointMeasurer, measured: Measured
) -> None:
    from llm_profile.profiler.measure import WholeModel  # noqa: PLC0415  (torch is optional)

    for layout in _layouts(options):
        latency = open_latency_model(_query(options, setup.model), _SOURCES[layout])
        kind = Kind.FUSED_LAYERS if layout == Layout.BUNDLE else Kind.SPLIT_LAYERS
        whole = WholeModel(setup, device, fused=layout == Layout.BUNDLE)
        drift = partial(drift_of, measurer.measure, measured, kind)
        check = compare(whole.iteration_ns, drift, _grid(options), latency, setup.model)
        print(f"\n{check_text(latency.name, check)}")

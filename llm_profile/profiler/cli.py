"""Command line of the profiler: flags, identity of a profile, and the order of its steps."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.layers import check_tp_size
from llm_profile.model_config import ModelConfig, load_model_config
from llm_profile.profiler.batch import DecodeKernel
from llm_profile.profiler.bundle import bundle_files
from llm_profile.profiler.check import compare, comparison_text
from llm_profile.profiler.journal import Identity, Journal
from llm_profile.profiler.meta import meta_text
from llm_profile.profiler.plan import Grid, Layout, Part, plan
from llm_profile.profiler.power import NoPowerError, PowerSampler, open_nvml
from llm_profile.profiler.run import measure_missing
from llm_profile.profiler.skew_fit import fit_buckets, skew_samples
from llm_profile.profiler.store import replace_file, write_tables
from llm_profile.profiler.tables import v1_files
from llm_profile.tables_v1 import TABLE_BITS

if TYPE_CHECKING:
    from llm_profile.profiler.device import Device
    from llm_profile.profiler.measure import Setup

VARIANTS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
BITS = {"bfloat16": 16, "float16": 16, "float32": 32}
_SOURCES = {Layout.V1: "tables", Layout.BUNDLE: "bundle"}
_FILES = {
    Part.LAYERS: {"layers.csv", "dense.csv", "per_sequence.csv", "moe.csv"},
    Part.ATTENTION: {"attention.csv", "skew.csv", "skew_fit.csv"},
}
"""Tables of a part; those of the other are left as they are, since its points may not be complete."""
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m llm_profile.profiler",
        description="Measure a model's layers and attention on this machine, and write latency tables. "
        "An interrupted profile goes on where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = flags.add_argument
    add("--model", required=True, help="name of a model in model_config/, or a config.json (random weights)")
    add("--hardware", required=True, help="what to call this device; clusters name it in 'hardware'")
    add("--output", type=Path, default=Path("llm_profile/perf_models"), help="folder of all tables")
    add("--layout", type=Layout, choices=list(Layout), default=Layout.BOTH, help="tables to write")
    add("--only", type=Part, choices=list(Part), default=Part.ALL, help="measure only a part")
    add("--tp", type=int, default=1, help="tensor-parallel size whose one rank is measured")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to run")
    add("--dtype", choices=list(VARIANTS), default="bfloat16", help="weights, activations and KV")
    add("--fresh", action="store_true", help="drop what was measured before")
    add("--check", action="store_true", help="also measure whole forward passes, against the tables")
    _add_grid_flags(flags.add_argument_group("sampling plan"))
    _add_shot_flags(flags.add_argument_group("measuring"))
    return flags


def _add_grid_flags(group: argparse._ArgumentGroup) -> None:
    add, grid = group.add_argument, Grid()
    add("--max-tokens", type=_positive, default=grid.max_tokens, help="longest chunk, most tokens of a layer")
    add("--max-seqs", type=_positive, default=grid.max_seqs, help="most requests of a decode batch")
    add("--max-context", type=_positive, default=grid.max_context, help="longest history, and KV of a decode")
    add("--max-batch-kv", type=_positive, default=grid.max_batch_kv, help="most KV tokens of a batch")
    add("--density", type=float, default=grid.density, help="points a doubling")
    add("--no-skew", action="store_true", help="no uneven decode batches (skew.csv)")


def _add_shot_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--repeats", type=_positive, default=5, help="shots a point, at least; the median counts")
    add("--blocks", type=_positive, default=None, help="blocks in memory (default: the model's, at most 4)")
    add("--threads", type=_positive, default=os.cpu_count() or 1, help="threads of a CPU")
    add(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: CPU time, for one thread on a busy host",
    )
    add(
        "--decode-kernel",
        choices=["auto", "loop", "padded"],
        default="auto",
        help="loop on CPU, padded on CUDA",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, write tables, and check them if asked to; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        _refuse(options)
        return _profile(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _refuse(options: argparse.Namespace) -> None:
    """Raise for flags that do not go together, before anything is imported or measured."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("", "torch", "is not installed; run ./compile.sh --with profile")
    if options.clock == "cpu" and (options.threads != 1 or options.device != "cpu"):
        raise InputError("", "--clock", "cpu: counts one thread of a CPU; add --device cpu --threads 1")
    if options.layout != Layout.BUNDLE and BITS[options.dtype] != TABLE_BITS:
        message = f"{options.dtype}: v1 tables are of {TABLE_BITS}-bit numbers; use --layout bundle"
        raise InputError("", "--dtype", message)
    if not 0 < options.density <= 100:
        raise InputError("", "--density", f"{options.density:g}: must be above 0 and at most 100")
    if options.max_batch_kv < options.max_tokens + options.max_context:
        raise InputError(
            "",
            "--max-batch-kv",
            f"{options.max_batch_kv}: must hold a chunk of --max-tokens on a history of --max-context, "
            f"{options.max_tokens + options.max_context}",
        )


def _profile(options: argparse.Namespace) -> int:
    from llm_profile.profiler.device import open_device  # noqa: PLC0415 (torch is optional)
    from llm_profile.profiler.measure import Measurer  # noqa: PLC0415

    model = load_model_config(options.model)
    check_tp_size(model, options.tp)
    if options.check:
        _refuse_check(options, model)
    setup = _setup(options, model)
    device = open_device(options.device, options.threads, options.clock)
    identity = _identity(options, setup, device)
    layouts = list(_SOURCES) if options.layout == Layout.BOTH else [options.layout]
    folder = options.output / options.hardware / model.name
    file = folder / f"profile-tp{options.tp}-{VARIANTS[options.dtype]}.jsonl"
    if options.fresh:
        file.unlink(missing_ok=True)
    points = plan(model, _grid(options), options.layout, options.only)
    with Journal(file, identity) as journal:
        with ExitStack() as stack:
            sampler = _power_sampler(options, stack)
            listeners = [sampler] if sampler else []
            new = measure_missing(points, journal, Measurer(setup, device), listeners)
        print(f"{new} points measured, {len(points) - new} were there: {file}")
        for layout in layouts:
            _write(options, model, identity, journal, layout)
        if sampler and new:
            power = folder / f"tp{options.tp}" / "power.csv"
            replace_file(power, sampler.csv())
            print(power)
    if options.check:
        _print_checks(options, setup, device, layouts)
    return 0


def _refuse_check(options: argparse.Namespace, model: ModelConfig) -> None:
    if options.only != Part.ALL:
        raise InputError("", "--only", f"{options.only}: --check needs all tables")
    if model.is_moe:
        raise InputError(model.name, "--check", "mixture-of-experts layers have no latency source to check")


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
    from llm_profile.profiler.measure import Setup  # noqa: PLC0415

    kernel = options.decode_kernel
    if kernel == "auto":
        kernel = "loop" if options.device == "cpu" else "padded"
    blocks = options.blocks or min(4, model.num_hidden_layers)
    return Setup(model, options.tp, options.dtype, blocks, DecodeKernel(kernel), options.repeats)


def _identity(options: argparse.Namespace, setup: Setup, device: Device) -> Identity:
    import torch  # noqa: PLC0415

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
    options: argparse.Namespace, setup: Setup, device: Device, layouts: Sequence[Layout]
) -> None:
    from llm_profile.profiler.measure import WholeModel  # noqa: PLC0415

    for layout in layouts:
        latency = open_latency_model(_query(options, setup.model), _SOURCES[layout])
        whole = WholeModel(setup, device, fused=layout == Layout.BUNDLE)
        comparisons = compare(whole.iteration_ns, _grid(options), latency, setup.model)
        print(f"\n{comparison_text(latency.name, comparisons)}")

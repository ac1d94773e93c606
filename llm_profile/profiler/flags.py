"""Flags of the profiler, and which of them do not go together."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from astra_sim.input_error import InputError
from llm_profile.layers import layers_beyond_tables
from llm_profile.model_config import ModelConfig
from llm_profile.profiler.plan import Grid, Layout, Part
from llm_profile.tables_v1 import TABLE_BITS

VARIANTS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
BITS = {"bfloat16": 16, "float16": 16, "float32": 32}


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


def refuse(options: argparse.Namespace) -> None:
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


def refuse_beyond_tables(model: ModelConfig) -> None:
    """Raise for a model with layers that the tables have no place for."""
    beyond = layers_beyond_tables(model)
    if beyond:
        raise InputError(
            model.name, "model", f"no tables can hold {', '.join(beyond)} beside its other layers"
        )


def refuse_check(options: argparse.Namespace, model: ModelConfig) -> None:
    """Raise if there is nothing to hold a forward pass against."""
    if options.only != Part.ALL:
        raise InputError("", "--only", f"{options.only}: --check needs all tables")
    if model.is_moe:
        raise InputError(model.name, "--check", "mixture-of-experts layers have no latency source to check")

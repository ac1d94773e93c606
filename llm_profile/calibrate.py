"""Fit a hardware description to measured tables, or check one against them.

``python -m llm_profile.calibrate --profiles DIR --hardware A6000`` prints the ``coefficients`` and ``fit``
sections of ``hardware/A6000.yaml``, whose datasheet part must exist. ``--profiles DIR... --check [--hardware ...]``
prints how far descriptions are from the tables, and which goals they meet. Of mixture-of-experts models attention,
router and experts are fitted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from astra_sim.input_error import InputError
from llm_profile.calibrate_check import (
    Errors,
    error_table,
    held_out_errors,
    prefill_ns,
)
from llm_profile.calibrate_decode import fit_decode
from llm_profile.calibrate_gemm import fit_gemm, thinned_curve
from llm_profile.calibrate_mixed import fit_mixed
from llm_profile.calibrate_moe import fit_moe, fit_router
from llm_profile.calibrate_report import check, described, named, table_text
from llm_profile.calibrate_runs import FIT_RUN, fit_run, fitted_range, run_errors
from llm_profile.calibrate_values import rounded, within_limits
from llm_profile.hardware import (
    Coefficients,
    Decode,
    Elementwise,
    Hardware,
    Prefill,
)
from llm_profile.layers import layer_shape
from llm_profile.least_squares import fit_positive
from llm_profile.profiles import Profile, read_profiles
from llm_profile.roofline import ELEMENTWISE_CLASS
from llm_profile.roofline_formulas import elementwise_ns
from llm_profile.table_csv import Floats

Samples = tuple[Floats, Floats, Floats]
MAX_PREFILL_EFFICIENCY = 0.95
PREFILL_START = {"fixed_ns": 4e3, "efficiency": 0.5, "crowding": 1.0, "tail": 0.7}
FREE = 1000.0
"""Efficiency of a layer that is computed within another."""
TILE_ROWS = (32, 64, 128)
LONG_PROMPT = 512
"""Tokens from which whole prompts join a fit of a card that has measured chunks."""


def fit(card: Hardware, profiles: Sequence[Profile]) -> Coefficients:
    """Fit every layer class and attention; what was not measured keeps its generic values."""
    dense = [profile for profile in profiles if not profile.model.is_moe]
    classes: dict[str, Any] = {
        name: fit_elementwise(card, dense, name) for name in sorted(set(ELEMENTWISE_CLASS.values()))
    }
    prefilled = _trusted_prefills(profiles)
    decoded = [profile for profile in profiles if profile.decode]
    gemm = fit_gemm(card, dense)
    fitted = Coefficients(
        gemm=gemm,
        **classes,
        prefill=fit_prefill(card, profiles) if prefilled else Prefill(),
        decode=fit_decode(card, decoded) if decoded else Decode(),
        router=fit_router(card, profiles, gemm),
        moe=fit_moe(card, profiles),
    )
    return fitted.model_copy(update={"mixed": fit_mixed(card, profiles, fitted)})


def fit_elementwise(card: Hardware, profiles: Sequence[Profile], class_name: str) -> Elementwise:
    """Coefficients of the layers of one elementwise class."""
    layers = [layer for layer, name in ELEMENTWISE_CLASS.items() if name == class_name]
    if class_name == "activation" and all(profile.fused_activation for profile in profiles):
        return Elementwise(fixed_ns=0, efficiency=FREE, cached_efficiency=FREE)
    curves = [
        (layer_shape(p.model, layer, p.tp_size), *thinned_curve(p.layers[layer]))
        for p in profiles
        for layer in layers
    ]

    def predict(values: dict[str, Any]) -> Floats:
        c = Elementwise.model_construct(**within_limits(values))
        bandwidth = card.memory.bandwidth_gbps
        return np.concatenate(
            [
                elementwise_ns(c, card, shape, tokens, bandwidth_gbps=bandwidth, bits=16)
                for shape, tokens, _ in curves
            ]
        )

    starts = [
        {"fixed_ns": 5000.0, "efficiency": 0.3, "cached_efficiency": 0.5, "working_set": w}
        for w in (1.0, 3.0, 8.0)
    ]
    return Elementwise(**_best(predict, np.concatenate([ns for _, _, ns in curves]), starts))


def fit_prefill(card: Hardware, profiles: Sequence[Profile]) -> Prefill:
    """Coefficients of prefill attention, from chunks with context and whole prompts."""
    samples = _trusted_prefills(profiles)
    measured = np.concatenate([s[2] for _, s in samples])
    fits = []
    for tile_rows in TILE_ROWS:

        def predict(values: dict[str, Any], tile_rows: int = tile_rows) -> Floats:
            c = Prefill.model_construct(**_below_peak(values), tile_rows=tile_rows)
            return np.concatenate([prefill_ns(card, p, c, n, context) for p, (n, context, _) in samples])

        values, loss = fit_positive(predict, measured, PREFILL_START)
        fits.append((loss, Prefill(**rounded(_below_peak(values)), tile_rows=tile_rows)))
    return min(fits, key=lambda fit: fit[0])[1]


def _trusted_prefills(profiles: Sequence[Profile]) -> list[tuple[Profile, Samples]]:
    """Measured chunks and long prompts; all prompts where nothing else was measured.

    Short prompts of a card are up to twice as slow as its chunks of the same size: the whole-prompt series
    has another launch cost.
    """
    chunks = [(p, p.prefill_samples()) for p in profiles if p.prefill]
    prompts = [(p, p.prompt_samples()) for p in profiles]
    least = LONG_PROMPT if chunks else 1
    prompts = [(p, (n[n >= least], c[n >= least], ns[n >= least])) for p, (n, c, ns) in prompts]
    return chunks + [(p, s) for p, s in prompts if s[0].size]


def _best(
    predict: Callable[[dict[str, float]], Floats], measured: Floats, starts: Sequence[dict[str, float]]
) -> dict[str, Any]:
    fits = [fit_positive(predict, measured, start) for start in starts]
    return rounded(within_limits(min(fits, key=lambda result: result[1])[0]))


def _below_peak(values: dict[str, Any]) -> dict[str, Any]:
    return {**within_limits(values), "efficiency": min(values["efficiency"], MAX_PREFILL_EFFICIENCY)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints YAML (fit) or a Markdown table (check)."""
    parser = argparse.ArgumentParser(prog="python -m llm_profile.calibrate", description=__doc__)
    parser.add_argument(
        "--profiles",
        type=Path,
        nargs="+",
        required=True,
        help="folder with {hardware}/{model}/tp{N} or of recorded runs; with --check also several",
    )
    parser.add_argument(
        "--hardware", nargs="+", default=[], help="name of the card; --check: any number, without it all"
    )
    parser.add_argument("--check", action="store_true", help="print the errors of existing descriptions")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="print the errors of each model when only the others are fitted",
    )
    options = parser.parse_args(arguments)
    try:
        if options.check and options.held_out:
            raise InputError("", "--check", "cannot be combined with --held-out, which fits")
        if options.check:
            print(table_text(check(options.profiles, options.hardware)))
            return 0
        print(_fit(options.profiles, options.hardware, options.held_out))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _fit(folders: Sequence[Path], names: Sequence[str], held_out: bool) -> str:
    for flag, values in (("--profiles", folders), ("--hardware", names)):
        if len(values) != 1:
            raise InputError("", flag, f"{len(values)} values: a fit needs one (--check takes any number)")
    (folder,), card = folders, described(names[0])
    if (folder / FIT_RUN).is_file():
        if held_out:
            raise InputError("", "--held-out", "recorded runs are of one model; --check shows the other runs")
        return run_text(card, folder)
    profiles = read_profiles(folder, card.name)
    if held_out:
        return table_text(named(card, held_out_errors(card, profiles, fit)))
    return fit_text(card, profiles)


def fit_text(card: Hardware, profiles: Sequence[Profile]) -> str:
    """The ``coefficients`` and ``fit`` sections of a description, as YAML."""
    fitted = card.model_copy(update={"coefficients": fit(card, profiles)})
    assert fitted.coefficients is not None
    record = {
        "data": "tables of " + ", ".join(profile.key for profile in profiles),
        "max_tokens": max(max(points) for profile in profiles for points in profile.layers.values()),
        **_attention_range(profiles),
        "errors": _rounded_errors(error_table(fitted, profiles)),
    }
    return _yaml({"coefficients": fitted.coefficients.model_dump(exclude_none=True), "fit": record})


def _attention_range(profiles: Sequence[Profile]) -> dict[str, int]:
    """Largest prefill and decode batches that were fitted."""
    prefills = [(n, c) for p in profiles for n, c, _ in (p.prefill_samples(), p.prompt_samples())]
    decodes = [p.decode_samples() for p in profiles]
    return {
        "max_keys": int(max((n + c).max(initial=0) for n, c in prefills)),
        "max_requests": int(max(n.max(initial=0) for n, _, _ in decodes)),
        "max_kv": int(max(kv.max(initial=0) for _, kv, _ in decodes)),
    }


def run_text(card: Hardware, folder: Path) -> str:
    """``step_overhead_ns``, ``coefficients`` and ``fit`` from recorded iterations, as YAML."""
    coefficients, overhead_ns = fit_run(card, folder)
    fitted = card.model_copy(update={"coefficients": coefficients, "step_overhead_ns": overhead_ns})
    record = {
        "data": f"iterations of a recorded vLLM run ({FIT_RUN})",
        **fitted_range(folder),
        "errors": _rounded_errors(run_errors(fitted, folder)),
    }
    return _yaml(
        {
            "step_overhead_ns": overhead_ns,
            "coefficients": coefficients.model_dump(exclude_none=True),
            "fit": record,
        }
    )


def _rounded_errors(errors: Errors) -> dict[str, dict[str, float]]:
    return {
        name: {"median": round(median, 3), "p90": round(p90, 3)} for name, (median, p90) in errors.items()
    }


def _yaml(sections: dict[str, Any]) -> str:
    return yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=110).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())

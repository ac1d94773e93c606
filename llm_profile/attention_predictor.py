"""Train an attention predictor on ``attention.csv`` and write it as the filled grids of the published layout.

A prediction is a line times a correction: the line is a non-negative least-squares fit of relative errors to
what attention must do (launch, tokens, keys, (query, key) pairs), the correction a forest of extremely randomised
trees (Geurts, Ernst and Wehenkel 2006) fitted to the logarithm of what the line leaves. The forest is only used
to fill grids of numbers, which need neither scikit-learn nor trust to be read.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astra_sim.input_error import InputError
from llm_profile.attention_csv import (
    BATCH,
    CHUNK,
    DECODE_GRID,
    KV,
    PREFILL_GRID,
    prediction_files,
    predictor_file,
    read_measured_rows,
    table_digest,
)
from llm_profile.protocol import LatencyQuery
from llm_profile.table_csv import Floats, Ints

FOLDS = 5
TREES = 100
PREFILL_STEP = 64
"""Contexts of the prefill grid, in tokens."""
DECODE_KNOTS = 40
"""KV lengths of each batch size of the decode grid."""
LEAST_SHOTS = 20
"""Fewer different shots of a kind than this cannot be held out in turn."""


@dataclass(frozen=True)
class Error:
    """|predicted / measured - 1| of shots that the predictor was not trained on (5-fold cross-validation)."""

    median: float
    p90: float
    shots: int


@dataclass(frozen=True)
class Predictor:
    """Filled grids (first column, second column, ns) in the columns of the published files."""

    prefill: Floats
    decode: Floats
    errors: dict[str, Error]
    """By ``prefill`` and ``decode``."""


Model = Callable[[Ints, Ints], Floats]
"""Time in ns by (chunk, context) or by (requests, total KV)."""


def train(file: Path, query: LatencyQuery, seed: int = 0) -> Predictor:
    """Train on the shots of ``attention.csv``; the same seed gives the same grids.

    Raises InputError for a broken or too small table, or if scikit-learn is not installed.
    """
    prefill, decode = read_measured_rows(file, query)
    grids: dict[str, Floats] = {}
    errors: dict[str, Error] = {}
    for kind, rows, first in (("prefill", prefill, CHUNK), ("decode", decode, BATCH)):
        work = _prefill_work if kind == "prefill" else _decode_work
        keys = rows.keys[:, [first, KV]]
        _check_enough(file, kind, keys)
        errors[kind] = _cross_validated(keys, rows.ns, work, seed)
        model = _fit(keys, rows.ns, work, seed)
        at = _prefill_knots(keys) if kind == "prefill" else _decode_knots(keys)
        grids[kind] = np.column_stack([at, model(at[:, 0], at[:, 1])])
    return Predictor(grids["prefill"], grids["decode"], errors)


def write_predictor(folder: Path, predictor: Predictor, seed: int) -> None:
    """Write the grids and ``predictor.json`` into ``folder/predictions``; a reader sees whole files only."""
    prefill_file, decode_file = prediction_files(folder)
    prefill_file.parent.mkdir(exist_ok=True)
    facts = {
        "attention_csv_sha256": table_digest(folder / "attention.csv"),
        "seed": seed,
        "scikit_learn": _sklearn("sklearn").__version__,
        "cross_validated_error": {kind: asdict(error) for kind, error in predictor.errors.items()},
    }
    _write(prefill_file, _grid_text(PREFILL_GRID, predictor.prefill[:, [1, 0, 2]]))
    _write(decode_file, _grid_text(DECODE_GRID, predictor.decode))
    _write(predictor_file(folder), json.dumps(facts, indent=2) + "\n")


def _check_enough(file: Path, kind: str, keys: Ints) -> None:
    shots = len(np.unique(keys, axis=0))
    if shots < LEAST_SHOTS:
        raise InputError(
            file, "is_prefill", f"{shots} different {kind} shots; a predictor needs {LEAST_SHOTS}"
        )


def _prefill_work(chunk: Ints, context: Ints) -> tuple[Floats, Floats]:
    """(what time is linear in, what the forest sees) of chunks on contexts."""
    n, c = chunk.astype(np.float64), context.astype(np.float64)
    pairs = n * (c + n / 2)
    return np.stack([np.ones_like(n), n, n + c, pairs], axis=1), np.stack([n, c, n + c, pairs], axis=1)


def _decode_work(requests: Ints, total_kv: Ints) -> tuple[Floats, Floats]:
    """The same of decode batches."""
    n, kv = requests.astype(np.float64), total_kv.astype(np.float64)
    return np.stack([np.ones_like(n), n, kv], axis=1), np.stack([n, kv, kv / n], axis=1)


def _fit(keys: Ints, ns: Floats, work: Callable[[Ints, Ints], tuple[Floats, Floats]], seed: int) -> Model:
    linear, seen = work(keys[:, 0], keys[:, 1])
    line = _sklearn("sklearn.linear_model").LinearRegression(positive=True, fit_intercept=False)
    line.fit(linear / ns[:, None], np.ones_like(ns))
    forest = _sklearn("sklearn.ensemble").ExtraTreesRegressor(TREES, random_state=seed, n_jobs=1)
    forest.fit(seen, np.log(ns / (linear @ line.coef_)))

    def predict(first: Ints, second: Ints) -> Floats:
        linear, seen = work(first, second)
        ns: Floats = (linear @ line.coef_) * np.exp(forest.predict(seen))
        return ns

    return predict


def _cross_validated(
    keys: Ints, ns: Floats, work: Callable[[Ints, Ints], tuple[Floats, Floats]], seed: int
) -> Error:
    """Each shot predicted by a model that saw no shot of the same size."""
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    fold = np.random.default_rng(seed).permutation(int(group.max()) + 1)[group] % FOLDS
    off = np.zeros_like(ns)
    for held_out in range(FOLDS):
        here = fold == held_out
        model = _fit(keys[~here], ns[~here], work, seed)
        off[here] = np.abs(model(keys[here, 0], keys[here, 1]) / ns[here] - 1)
    return Error(float(np.median(off)), float(np.quantile(off, 0.9)), int(ns.size))


def _prefill_knots(keys: Ints) -> Ints:
    """Every measured chunk, at its own contexts and at steps between the shortest and the longest."""
    knots = []
    for chunk in np.unique(keys[:, 0]).tolist():
        own = keys[keys[:, 0] == chunk, 1]
        steps = np.arange(int(own.min()), int(own.max()) + 1, PREFILL_STEP)
        knots += [(chunk, context) for context in np.union1d(own, steps).tolist()]
    return np.array(knots, dtype=np.int64)


def _decode_knots(keys: Ints) -> Ints:
    """Every measured batch size, at KV lengths between its smallest and largest, denser where small."""
    knots = []
    for requests in np.unique(keys[:, 0]).tolist():
        own = keys[keys[:, 0] == requests, 1]
        least, most = int(own.min()), int(own.max())
        curved = np.r_[
            np.linspace(least, most, DECODE_KNOTS // 2), np.geomspace(least, most, DECODE_KNOTS // 2)
        ]
        knots += [(requests, kv) for kv in np.unique(np.rint(curved)).tolist()]
    return np.array(knots, dtype=np.int64)


def _grid_text(columns: tuple[str, str], grid: Floats) -> str:
    lines = [",".join((*columns, "prediction"))]
    lines += [f"{int(first)},{int(second)},{round(ns)}" for first, second, ns in grid.tolist()]
    return "\n".join(lines) + "\n"


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            "", "scikit-learn", "is not installed; install it with ./compile.sh --with predict"
        ) from None

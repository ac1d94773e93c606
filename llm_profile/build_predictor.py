"""Train the attention predictor of ``--enable-attn-prediction`` from measured tables.

``python -m llm_profile.build_predictor --hardware A6000 --model meta-llama/Llama-3.1-8B --tp 1 2`` (or
``llm_profile/build_predictor.sh`` with the same arguments) reads ``{hardware}/{model}/tp{N}/attention.csv`` and
writes ``predictions/`` beside it; it prints how far the predictor is from shots it was not trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from astra_sim.input_error import InputError
from llm_profile.attention_predictor import Predictor, train, write_predictor
from llm_profile.model_config import load_model_config
from llm_profile.protocol import LatencyQuery
from llm_profile.tables_v1 import table_dirs


def build(query: LatencyQuery, seed: int) -> tuple[Path, Predictor]:
    """Train and write the predictor of the tables of ``query``; returns their folder too."""
    key = f"{query.hardware}/{query.model.name}/tp{query.tp_size}"
    roots = table_dirs(query)
    folder = next((root / key for root in roots if (root / key / "attention.csv").is_file()), None)
    if folder is None:
        raise InputError("", "--hardware", f"no {key}/attention.csv in {', '.join(map(str, roots))}")
    predictor = train(folder / "attention.csv", query, seed)
    try:
        write_predictor(folder, predictor, seed)
    except OSError as error:
        raise InputError(folder, "predictions", f"cannot be written: {error.strerror}") from None
    return folder, predictor


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints a line for each predictor."""
    parser = argparse.ArgumentParser(prog="python -m llm_profile.build_predictor", description=__doc__)
    parser.add_argument("--hardware", required=True, help="name of the card")
    parser.add_argument("--model", required=True, help="name of the model, or its config.json")
    parser.add_argument("--tp", type=int, nargs="+", default=[1], help="tensor-parallel sizes")
    parser.add_argument("--profile-dir", type=Path, help="folder of tables {hardware}/{model}/tp{N}/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the forest and of what is held out")
    options = parser.parse_args(arguments)
    try:
        if options.seed < 0:
            raise InputError("", "--seed", f"{options.seed}: must be at least 0")
        model = load_model_config(options.model)
        for tp_size in options.tp:
            query = LatencyQuery(options.hardware, model, tp_size, profile_dir=options.profile_dir)
            folder, predictor = build(query, options.seed)
            errors = "; ".join(
                f"{kind} {error.median:.1%} median, {error.p90:.1%} p90 of {error.shots} shots"
                for kind, error in predictor.errors.items()
            )
            print(f"{folder / 'predictions'}: cross-validated error: {errors}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m evaluation.hol.analyze SWEEP.yaml --output FOLDER``: tables and figures of what has been run so far.

Reads only what the runs have written. Exit codes: 0, or 2 for bad input and where nothing has been run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from astra_sim.input_error import InputError
from evaluation.hol import figures
from evaluation.hol.cells import Cells, make_cells
from evaluation.hol.claims import claims_text
from evaluation.hol.episode import draw_episode
from evaluation.hol.plan import Point
from evaluation.hol.shadowing import write_shadowing
from evaluation.hol.store import Store
from evaluation.hol.sweep import Setup, open_setup
from evaluation.hol.tables import chunk_table, write_tables
from evaluation.plot_style import open_pyplot, save
from inference_serving.files import write_whole


def analyze(setup: Setup, output: Path, *, draw: bool = True) -> list[Path]:
    """Write all tables and figures for which there are runs; returns the figures' files."""
    points = {
        name: [one for one in found if setup.store.has(one)] for name, found in setup.experiments().items()
    }
    if not any(points.values()):
        raise InputError(output, "", "no run of this sweep is here; run evaluation/hol/run_hol.sh first")
    _warn_of_mixed_sources((one for found in points.values() for one in found), setup.store)
    episode = points.pop("episode", [])
    cells = {name: make_cells(found, setup.store) for name, found in points.items() if found}
    tables = output / "tables"
    for name, found in cells.items():
        write_tables(name, found, tables)
    write_whole(tables / "claims.md", claims_text(cells.get("main", {}), cells.get("routers", {})))
    write_shadowing(cells.get("main", {}), tables)
    chunks = output / "chunks.json"
    if chunks.exists():
        write_whole(tables / "chunks.md", chunk_table(json.loads(chunks.read_text())))
    return _draw_all(cells, episode, setup.store, output / "figures") if draw else []


def _draw_all(cells: dict[str, Cells], episode: Sequence[Point], store: Store, folder: Path) -> list[Path]:
    pyplot = open_pyplot("figures")
    main, drawn = cells.get("main", {}), {}
    if main:
        setting, busiest = max(main.items(), key=lambda item: _load(item[0].load))
        drawn["slowdown_cdf"] = figures.slowdown_cdf(pyplot, setting, busiest)
        drawn["pareto"] = figures.pareto(pyplot, main)
        drawn["fairness"] = figures.fairness(pyplot, busiest)
        drawn["shadowing"] = figures.shadow(pyplot, busiest)
    if "loads" in cells:
        drawn["p99_against_load"] = figures.p99_against_load(pyplot, cells["loads"])
    for name in ("ablation", "routers", "sensitivity", "colocated"):
        for setting, found in cells.get(name, {}).items():
            drawn[f"{name}_{setting.load}_{setting.cluster}"] = figures.side_by_side(pyplot, found)
    for found in cells.get("flood", {}).values():
        drawn["flood"] = figures.flood(pyplot, found)
    if len(episode) > 1:
        runs = [(one.contestant, store.load(one)) for one in episode]
        drawn["episode"] = draw_episode(pyplot, runs)
    files: list[Path] = []
    for name, figure in drawn.items():
        files += save(pyplot, figure, folder / name) if figure is not None else []
    return files


def _load(text: str) -> float:
    """The number that a load begins with, or 0 for a trace of somebody's own."""
    first: Any = text.split(":", maxsplit=1)[0]
    return float(first) if first.replace(".", "").isdigit() else 0.0


def _warn_of_mixed_sources(points: Iterable[Point], store: Store) -> None:
    found = {str(store.facts(one)["sources"]) for one in points}
    if len(found) > 1:
        print(
            f"warning: these runs come from {len(found)} versions of the simulator; for results of one, delete "
            f"{store.folder.parent} and run again",
            file=sys.stderr,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Analyse a sweep; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.hol.analyze", description=__doc__)
    parser.add_argument("sweep", type=Path, help="the sweep file that was run")
    parser.add_argument("--output", type=Path, required=True, help="the folder that it was run into")
    parser.add_argument("--workload", type=Path, action="append", default=[], help="as it was run")
    parser.add_argument("--no-figures", action="store_true", help="tables only, without matplotlib")
    args = parser.parse_args(argv)
    try:
        setup = open_setup(args.sweep, args.output, args.workload)
        files = analyze(setup, args.output, draw=not args.no_figures)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((args.output / "tables" / "claims.md").read_text(), end="")
    for file in [*sorted((args.output / "tables").glob("*.md")), *files]:
        print(file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

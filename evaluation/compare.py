"""``bash compare.sh [5 6 | figure_5 ...]``: fresh results against the snapshots in artifacts/.

Exit codes: 0 the same within tolerances, 1 something differs, 2 bad input or nothing to compare yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.figure import Figure
from evaluation.figures import FIGURES
from evaluation.inputs import EVALUATION, add_output_argument
from evaluation.rows import Key, Row, read_rows, write_rows

_TOLERANCES_PERCENT = {"requests": 0.0, "prompt_tokens": 0.0, "generated_tokens": 0.0}
_TOLERANCE_PERCENT, _SERIES_TOLERANCE_PERCENT = 0.5, 2.0
_WORKLOAD = ("prompt_tokens", "generated_tokens")


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of one scenario, for a series its worst interval; None where a side does not have it."""

    scenario: str
    metric: str
    kept: float | None
    fresh: float | None
    off_percent: float | None
    tolerance_percent: float

    @property
    def differs(self) -> bool:
        """Whether it is missing on a side or further off than its tolerance."""
        return self.off_percent is None or self.off_percent > self.tolerance_percent


def differences(kept: Sequence[Row], fresh: Sequence[Row]) -> list[Difference]:
    """Every metric of every scenario, in the order of the snapshot, then what only the fresh run has.

    Numbers are compared in % of the snapshot's, numbers of a series in % of the series' highest there.
    """
    ours, theirs = _by_metric(kept), _by_metric(fresh)
    return [
        _worst(name, ours.get(name, {}), theirs.get(name, {})) for name in dict.fromkeys([*ours, *theirs])
    ]


def _by_metric(rows: Sequence[Row]) -> dict[tuple[str, str], dict[Key, float]]:
    found: dict[tuple[str, str], dict[Key, float]] = {}
    for row in rows:
        found.setdefault((row.scenario, row.metric), {})[row.key] = row.value
    return found


def _worst(name: tuple[str, str], kept: dict[Key, float], fresh: dict[Key, float]) -> Difference:
    is_series = any(key[2] for key in (*kept, *fresh))
    default = _SERIES_TOLERANCE_PERCENT if is_series else _TOLERANCE_PERCENT
    tolerance = _TOLERANCES_PERCENT.get(name[1], default)
    for key in dict.fromkeys([*kept, *fresh]):
        if key not in kept or key not in fresh:
            return Difference(*name, kept.get(key), fresh.get(key), None, tolerance)
    scale = max(abs(value) for value in kept.values())
    key = max(kept, key=lambda one: abs(fresh[one] - kept[one]))
    off = abs(fresh[key] - kept[key])
    return Difference(*name, kept[key], fresh[key], 100 * off / scale if scale else 100 * off, tolerance)


def _figures(names: Sequence[str]) -> list[Figure]:
    """The figures of these names or numbers, all without any; raises InputError for one there is not."""
    by_name = {one.name: one for one in FIGURES}
    wanted = [name if name.startswith("figure_") else f"figure_{name}" for name in names] or list(by_name)
    for name in wanted:
        if name not in by_name:
            raise InputError("", name, f"there is no such figure; there are {', '.join(by_name)}")
    return [by_name[name] for name in wanted]


def _read_fresh(figure: Figure, output_dir: Path) -> list[Row]:
    file = figure.parsed_file(output_dir)
    if not file.is_file():
        raise InputError(file, "", f"is not there; run bash {figure.name}.sh first")
    return read_rows(file)


def _print(figure: Figure, found: Sequence[Difference], output_dir: Path) -> None:
    print(f"{figure.name}\n  {'':<42}{'snapshot':>12}{'fresh':>12}{'off':>11}{'allowed':>9}")
    for one in found:
        kept, fresh = ("-" if value is None else f"{value:.6g}" for value in (one.kept, one.fresh))
        off = "missing" if one.off_percent is None else f"{one.off_percent:.2f} %"
        word = "  DIFFERS" if one.differs else ""
        name = f"{one.scenario}: {one.metric}"
        print(f"  {name:<42}{kept:>12}{fresh:>12}{off:>11}{one.tolerance_percent:>7g} %{word}")
    runtimes = figure.runtime_file(output_dir)
    if runtimes.is_file():
        seconds = [line.replace("\t", " ") + " s" for line in runtimes.read_text("utf-8").splitlines()[1:]]
        print(f"  simulation time (not judged): {', '.join(seconds)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compare.sh", description="Fresh results against the snapshots.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="5 or figure_5; default: all")
    parser.add_argument(
        "--artifacts-dir", type=Path, default=EVALUATION / "artifacts", metavar="DIR", help="the snapshots"
    )
    parser.add_argument("--update", action="store_true", help="make the fresh results the snapshots")
    add_output_argument(parser)
    args = parser.parse_args(argv)
    try:
        figures = [(one, _read_fresh(one, args.output_dir)) for one in _figures(args.figures)]
        if args.update:
            for figure, fresh in figures:
                write_rows(args.artifacts_dir / f"{figure.name}.tsv", fresh)
            return 0
        found = [
            (one, differences(read_rows(args.artifacts_dir / f"{one.name}.tsv"), fresh))
            for one, fresh in figures
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for figure, metrics in found:
        _print(figure, metrics, args.output_dir)
    return _verdict([one for _, metrics in found for one in metrics])


def _verdict(found: Sequence[Difference]) -> int:
    different = [one for one in found if one.differs]
    print(f"{len(found)} metrics compared, {len(different)} differ")
    if any(one.metric in _WORKLOAD and one.off_percent for one in different):
        print(
            "the fresh run served other requests than the snapshots, which are of the project's own dataset/"
        )
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What all figures have in common: run the scenarios, parse, hold against the real system, draw, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from astra_sim.input_error import InputError
from evaluation.inputs import Inputs, add_arguments, inputs_of
from evaluation.real_systems import Error, print_errors, write_errors
from evaluation.rows import Row, write_rows
from evaluation.scenarios import Outcome, Scenario, run_scenarios
from inference_serving.files import write_whole


@dataclass(frozen=True)
class Results:
    """All that a figure is drawn from; ``outcomes`` are of all scenarios, ``rows`` of those that ended well."""

    folder: Path
    inputs: Inputs
    outcomes: tuple[Outcome, ...]
    rows: tuple[Row, ...]
    errors: tuple[Error, ...]

    @property
    def served(self) -> tuple[Outcome, ...]:
        """The scenarios that have results."""
        return tuple(one for one in self.outcomes if one.status == "ok")


@dataclass(frozen=True)
class Figure:
    """One figure of the evaluation: its scenarios, and what becomes of their files.

    ``parse`` makes rows of one scenario's files, ``errors`` holds it against the real system where that is at
    hand, ``draw`` writes the picture and returns its files. ``is_timed``: its scenarios run one at a time, so that
    none slows another down.
    """

    name: str
    title: str
    scenarios: tuple[Scenario, ...]
    parse: Callable[[Outcome], list[Row]]
    errors: Callable[[Outcome, Inputs], list[Error]]
    draw: Callable[[Results], list[Path]]
    is_timed: bool = False

    def parsed_file(self, output_dir: Path) -> Path:
        """Where the parsed results are."""
        return output_dir / self.name / "parsed" / f"{self.name}.tsv"

    def errors_file(self, output_dir: Path) -> Path:
        """Where the errors against the real system are."""
        return output_dir / self.name / "parsed" / f"{self.name}_errors.tsv"

    def runtime_file(self, output_dir: Path) -> Path:
        """Where the seconds that each scenario took are."""
        return output_dir / self.name / "parsed" / f"{self.name}_runtime.tsv"


def make(figure: Figure, inputs: Inputs) -> Results:
    """Run a figure and write everything; whatever fails is in the outcomes, and does not stop the rest."""
    folder = inputs.output_dir / figure.name
    print(f"{figure.name}: {figure.title}", flush=True)
    outcomes, rows, errors = [], [], []
    of_figure = replace(inputs, processes=1) if figure.is_timed else inputs
    for outcome in run_scenarios(figure.scenarios, folder, of_figure):
        ended = outcome
        if outcome.status == "ok":
            try:
                found, off = figure.parse(outcome), figure.errors(outcome, inputs)
                rows += found
                errors += off
            except InputError as error:
                ended = replace(outcome, status="failed", why=str(error))
        outcomes.append(ended)
    results = Results(folder, inputs, tuple(outcomes), tuple(rows), tuple(errors))
    write_rows(figure.parsed_file(inputs.output_dir), rows)
    write_errors(figure.errors_file(inputs.output_dir), errors)
    seconds = [f"{one.scenario.name}\t{one.wall_s:.2f}\n" for one in results.served]
    write_whole(figure.runtime_file(inputs.output_dir), "".join(["scenario\twall_s\n", *seconds]))
    if errors:
        print_errors(errors)
    if results.served:
        for file in figure.draw(results):
            print(f"  wrote {file}")
    return results


def report(all_results: Sequence[Results]) -> int:
    """Print what was skipped and what failed; returns the exit code, 1 if anything has failed."""
    outcomes = [one for results in all_results for one in results.outcomes]
    served = sum(one.status == "ok" for one in outcomes)
    skipped = [one for one in outcomes if one.status == "skipped"]
    failed = [one for one in outcomes if one.status == "failed"]
    print(f"{served} scenarios simulated, {len(skipped)} skipped, {len(failed)} failed")
    for one in (*skipped, *failed):
        print(f"  {one.status}: {one.files.folder.name} {one.scenario.name}: {one.why}")
    return 1 if failed else 0


def run_figures(figures: Sequence[Figure], inputs: Inputs) -> list[Results]:
    """Make figures one after the other, and say if real series are left out."""
    if inputs.reference_dir is not None and not inputs.comparable:
        print(
            "the real systems have served the original requests: without --dataset-dir their series are left out"
        )
    return [make(figure, inputs) for figure in figures]


def main(figures: Sequence[Figure], argv: Sequence[str] | None = None) -> int:
    """The command line of one figure or of all; returns the exit code: 0, 1 (a scenario failed), 2 (bad input)."""
    parser = argparse.ArgumentParser(description="; ".join(f"{one.name}: {one.title}" for one in figures))
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return report(run_figures(figures, inputs_of(args)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2

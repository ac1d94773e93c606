"""Where a figure takes its workloads and real series from, and where it writes."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from astra_sim.input_error import InputError

ROOT = Path(__file__).resolve().parents[1]
EVALUATION = ROOT / "evaluation"
DATASET_VARIABLE, REFERENCE_VARIABLE = "LLMSERVINGSIM_DATASET_DIR", "LLMSERVINGSIM_REFERENCE_DIR"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Folders of one run; ``dataset_dir`` and ``reference_dir`` are None where the user gave none.

    ``output_dir`` holds a folder for each figure.
    """

    dataset_dir: Path | None = None
    reference_dir: Path | None = None
    output_dir: Path = EVALUATION
    processes: int = 1

    @property
    def comparable(self) -> bool:
        """Whether real series may be compared: they belong to the original workloads, not to the project's own."""
        return self.dataset_dir is not None and self.reference_dir is not None

    def workload(self, name: str) -> Path:
        """The request file of that name; raises InputError if it is not there."""
        file = (self.dataset_dir or ROOT / "dataset") / f"{name}.jsonl"
        if not file.is_file():
            raise InputError(file, "", "no such workload; --dataset-dir must hold the original request files")
        return file

    def real(self, place: str) -> Path | None:
        """A file of the reference folder, such as ``a6000_figure_5/MD_throughput.tsv``.

        None if it is absent, or if the workloads are not the ones that the real system has served.
        """
        if self.reference_dir is None or not self.comparable:
            return None
        file = self.reference_dir / place
        return file if file.is_file() else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that runs scenarios."""
    parser.add_argument(
        "--dataset-dir",
        type=Path,
        metavar="DIR",
        help=f"the original request files, under their published names (or ${DATASET_VARIABLE}); default: dataset/",
    )
    parser.add_argument(
        "--reference-dir",
        type=Path,
        metavar="DIR",
        help=f"series of the real systems (or ${REFERENCE_VARIABLE}); default: the simulation alone",
    )
    add_output_argument(parser)
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="scenarios at a time"
    )


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that reads or writes results."""
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=EVALUATION,
        metavar="DIR",
        help="has a folder for each figure's logs, results and pictures (default: evaluation/)",
    )


def inputs_of(args: argparse.Namespace) -> Inputs:
    """The folders that a command line and the environment name; raises InputError for one that is not there."""
    if args.processes < 1:
        raise InputError("", "--processes", f"{args.processes}: must be at least 1")
    return Inputs(
        dataset_dir=_folder(args.dataset_dir, "--dataset-dir", DATASET_VARIABLE),
        reference_dir=_folder(args.reference_dir, "--reference-dir", REFERENCE_VARIABLE),
        output_dir=args.output_dir,
        processes=args.processes,
    )


def _folder(given: Path | None, flag: str, variable: str) -> Path | None:
    named = flag
    if given is None and os.environ.get(variable):
        given, named = Path(os.environ[variable]), f"${variable}"
    if given is not None and not given.is_dir():
        raise InputError(given, named, "no such folder")
    return given

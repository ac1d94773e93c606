"""``python -m inference_serving.validate RUN``: a simulation held against a real run.

    validate RUN --csv SIM.csv [--summary-json SIM.json]
    validate RUN --simulate --cluster-config C [--fit-speed] [any flag of main.py]

RUN is a folder or requests.jsonl of the published bench, the result JSON of ``vllm bench serve
--save-result --save-detailed``, a recorded vLLM run (NAME.reqs.jsonl.gz), or a throughput series (.tsv,
.csv). Exit codes: 0 compared, 2 bad input; with --simulate also the simulator's own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.cli import EXIT_BROKEN_PIPE
from inference_serving.files import check_folder, check_writable, write_whole
from inference_serving.run_speed import fit_speed
from inference_serving.validation.comparison import compare_runs
from inference_serving.validation.matching import WAYS
from inference_serving.validation.plots import check_plots, write_plots
from inference_serving.validation.readers import read_run, read_simulation
from inference_serving.validation.report import print_report, report_json
from inference_serving.validation.run import Run
from inference_serving.validation.simulate import SimulationFailedError, SimulationFiles, simulate

_NOT_KEPT = Path("simulated.csv (not kept; --csv FILE keeps it)")


def main(argv: list[str] | None = None) -> int:
    """Compare, print and write; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args, simulator_flags = _parser().parse_known_args(argv)
    try:
        _check(args, simulator_flags, argv)
        real = read_run(args.run)
        with tempfile.TemporaryDirectory() as folder:
            _validate(args, real, simulator_flags, Path(folder))
    except SimulationFailedError as error:
        return error.code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read stdout has gone, as in ``... | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:  # a full disk, a folder that has gone
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference_serving.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the real run")
    parser.add_argument(
        "--csv", type=Path, help="the simulation, from --output; with --simulate: keep it here"
    )
    parser.add_argument("--summary-json", type=Path, help="its --summary-json; with --simulate: keep it here")
    parser.add_argument("--simulate", action="store_true", help="simulate the workload of the real run first")
    parser.add_argument(
        "--match-kv-blocks", action="store_true", help="with --simulate: the KV blocks that the run states"
    )
    parser.add_argument(
        "--fit-speed",
        action="store_true",
        help="with --simulate: scale all latencies by one factor, the median over the run's recorded iterations",
    )
    parser.add_argument(
        "--classes", type=_limits, default=(), metavar="N,...", help="split requests at these prompt lengths"
    )
    parser.add_argument(
        "--match", choices=("auto", *WAYS), default="auto", help="how requests find each other"
    )
    parser.add_argument("--partial", action="store_true", help="leave out requests of one side only")
    parser.add_argument(
        "--series-counts",
        choices=("generated", "all"),
        default="generated",
        help="what a throughput series counts: generated tokens, or prompts too",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots as PNG (needs matplotlib)")
    return parser


def _limits(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    limits = tuple(int(part) for part in parts if part.isdecimal())
    if len(limits) < len(parts) or any(low >= high for low, high in zip((0, *limits), limits, strict=False)):
        raise argparse.ArgumentTypeError(f"{text}: give rising prompt lengths, such as 512")
    return limits


def _check(args: argparse.Namespace, simulator_flags: Sequence[str], argv: Sequence[str]) -> None:
    """Flags must fit together, and what is to be written must be writable, before anything is run."""
    if not args.simulate:
        if args.csv is None:
            raise InputError("", "--csv", "give the simulation's CSV, or --simulate to make one")
        if simulator_flags:
            raise InputError("", simulator_flags[0], "is unknown; flags of main.py need --simulate")
        for flag, given in (("--match-kv-blocks", args.match_kv_blocks), ("--fit-speed", args.fit_speed)):
            if given:
                raise InputError("", flag, "needs --simulate")
    elif simulator_flags and argv[:1] != [str(args.run)]:
        raise InputError("", "RUN", "give the real run first, before the flags of main.py")
    elif any(flag.partition("=")[0] == "--output" for flag in simulator_flags):
        raise InputError("", "--output", "give --csv FILE to keep the simulation's CSV")
    elif args.fit_speed and any(flag.partition("=")[0] == "--latency-scale" for flag in simulator_flags):
        raise InputError("", "--fit-speed", "sets --latency-scale itself; give one of the two")
    for flag, file in (("--csv", args.csv), ("--summary-json", args.summary_json)):
        if args.simulate and file is not None:
            check_writable(file, flag)
    if args.json is not None:
        check_writable(args.json, "--json")
    if args.plots is not None:
        check_plots(args.plots)
        check_folder(args.plots, args.plots, "--plots")


def _validate(args: argparse.Namespace, real: Run, flags: list[str], folder: Path) -> None:
    csv, summary = args.csv, args.summary_json
    if args.simulate:
        files = SimulationFiles(csv or folder / "simulated.csv", summary or folder / "simulated.json")
        flags = flags + _block_flags(args, real)
        if args.fit_speed:
            speed = fit_speed(real, flags)
            print(speed.text)
            flags = [*flags, "--latency-scale", repr(speed.factor)]
        used = simulate(real, flags, files, folder)
        print(f"simulated with: {used}")
        csv, summary = files.csv, files.summary
    simulated = read_simulation(csv)
    if args.simulate and args.csv is None:
        simulated = replace(simulated, file=_NOT_KEPT)
    comparison = compare_runs(
        real,
        simulated,
        classes=args.classes,
        way=args.match,
        partial=args.partial,
        summary=summary,
        series_counts=args.series_counts,
    )
    if args.json is not None:
        write_whole(args.json, report_json(comparison))
    print_report(comparison, sys.stdout)
    sys.stdout.flush()
    if args.plots is not None:
        for file in write_plots(comparison, args.plots):
            print(f"wrote {file}")


def _block_flags(args: argparse.Namespace, real: Run) -> list[str]:
    if not args.match_kv_blocks:
        return []
    if real.kv_blocks is None:
        raise InputError(
            real.file,
            "num_gpu_blocks",
            "the run does not state its KV blocks; take the number from vLLM's log and give "
            "--num-gpu-blocks-override N",
        )
    return ["--num-gpu-blocks-override", str(real.kv_blocks)]


if __name__ == "__main__":
    raise SystemExit(main())

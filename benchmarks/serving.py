"""How fast the simulator is: ``python benchmarks/serving.py [--scenario NAME ...] [--repeat N] [--json FILE]``.

Each run is a process of its own, ``main.py`` on a workload made into a temporary folder, so nothing is shared
and the start counts. CPU time and peak memory are the operating system's figures for that process.
Before every run, the same command runs on the workload's first request alone: its time is the start, and
memory grows from its peak. Nothing here passes or fails: times depend on the machine, ratios count.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CHAT_GOAL_S = 3.0  # the published system took 302 s for 300 ShareGPT requests at 10/s on one instance
LOAD_GOAL_S = 20.0  # the fastest peer took 0.7 s for 10,000 requests of 1024/128 tokens on 4 replicas
PROFILE_LINES = 25
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
MIB, KIB = 2**20, 2**10
EXIT_RUN_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


@dataclass(frozen=True, slots=True)
class Run:
    """One command that is measured: ``requests`` of a workload on a cluster."""

    name: str
    cluster: str
    requests: int
    dataset: str | None = None
    """A file of this repository; None makes requests of 1024/128 tokens, Poisson at ``rate_per_s``, seed 0."""
    rate_per_s: float = 60.0
    goal_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process did; CPU time is user and system together."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    iterations: int
    requests: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity over the repeats."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> Figure:
        """Summarise at least one value."""
        return Figure(statistics.median(values), min(values), max(values))

    def text(self, unit: float = 1.0, digits: int = 2) -> str:
        """``median (min-max)`` in multiples of ``unit``."""
        middle, low, high = (f"{value / unit:.{digits}f}" for value in (self.median, self.min, self.max))
        return f"{middle} ({low}-{high})"


@dataclass(frozen=True, slots=True)
class Result:
    """A run over all repeats; the unit ends a figure's name, growth is from the peak of the one-request run."""

    run: Run
    requests: int
    iterations: int
    figures: dict[str, Figure]


class RunFailedError(RuntimeError):
    """A process did not end well; the message has its exit code and what it said."""


_CHAT = "dataset/sharegpt_req300_rate10_llama.jsonl"
_ONE, _FOUR, _PD = (f"single_node_{name}_H100_8B" for name in ("single_instance", "4_instance", "pd_2p2d"))
SCENARIOS: dict[str, tuple[Run, ...]] = {
    "chat": (Run("chat", _ONE, 300, _CHAT, goal_s=CHAT_GOAL_S),),
    "load": (Run("load", _FOUR, 10_000, goal_s=LOAD_GOAL_S),),
    "pd": (Run("pd", _PD, 10_000),),
    "memory": (
        Run("memory-2500", _FOUR, 2_500),
        Run("memory-5000", _FOUR, 5_000),
        Run("memory-10000", _FOUR, 10_000),
        # as many requests in many more, smaller iterations: memory must follow the requests
        Run("memory-2500-slow", _FOUR, 2_500, rate_per_s=15.0),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or profile; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="serving-benchmark-") as folder:
            if args.profile is not None:
                print(profile(SCENARIOS[args.profile][0], Path(folder)), end="")
                return 0
            runs = [run for name in args.scenario for run in SCENARIOS[name]]
            results = measure(runs, args.repeat, Path(folder))
    except RunFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_RUN_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    _print_table(results)
    if args.json is not None:
        args.json.write_text(_json(results, args.repeat), encoding="utf-8")
    return 0


def measure(runs: Sequence[Run], repeat: int, folder: Path) -> list[Result]:
    """Run everything ``repeat`` times, in turns, so that a busy minute of the machine hits all runs alike."""
    workloads = [_workload(run, folder) for run in runs]
    starts: list[list[Sample]] = [[] for _ in runs]
    fulls: list[list[Sample]] = [[] for _ in runs]
    for turn in range(1, repeat + 1):
        for index, run in enumerate(runs):
            print(f"{turn} of {repeat}: {run.name}", file=sys.stderr)
            starts[index].append(_sample(run, workloads[index], 1, folder))
            fulls[index].append(_sample(run, workloads[index], run.requests, folder))
    return [_result(*of_run) for of_run in zip(runs, starts, fulls, strict=True)]


def profile(run: Run, folder: Path) -> str:
    """Run in this process under cProfile; the functions with most own time (seconds), as text."""
    from inference_serving.cli import main as simulate  # noqa: PLC0415  (see _process: stay small)

    arguments = _arguments(run, _workload(run, folder), run.requests, folder)
    profiler = cProfile.Profile()
    with contextlib.redirect_stdout(io.StringIO()):
        code = profiler.runcall(simulate, arguments)
    if code != 0:
        raise RunFailedError(f"exit code {code} of {run.name}")
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)
    return text.getvalue()


def _workload(run: Run, folder: Path) -> Path:
    """The run's workload: a file of this repository, or one that dataset/generate.py makes now."""
    if run.dataset is not None:
        return ROOT / run.dataset
    file = folder / f"{run.name}.jsonl"
    command = [sys.executable, str(ROOT / "dataset/generate.py"), "--output", str(file)]
    command += ["--requests", str(run.requests), "--input-toks", "1024", "--output-toks", "128"]
    command += ["--arrivals", f"poisson:{run.rate_per_s:g}", "--seed", "0"]
    _process(command, folder)
    return file


def _arguments(run: Run, workload: Path, requests: int, folder: Path) -> list[str]:
    """Arguments of main.py, which writes its results into ``folder``."""
    cluster = ROOT / f"cluster_config/{run.cluster}.json"
    inputs = ["--cluster-config", str(cluster), "--dataset", str(workload), "--num-req", str(requests)]
    inputs += ["--latency-source", "calibrated"]  # the same work whatever else is installed
    return [*inputs, "--output", str(folder / "run.csv"), "--summary-json", str(folder / "run.json")]


def _sample(run: Run, workload: Path, requests: int, folder: Path) -> Sample:
    """Run one process to its end."""
    command = [sys.executable, str(ROOT / "main.py"), *_arguments(run, workload, requests, folder)]
    wall_s, cpu_s, peak_rss_bytes = _process(command, folder)
    summary = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    iterations = sum(instance["iterations"] for instance in summary["instances"])
    return Sample(wall_s, cpu_s, peak_rss_bytes, iterations, summary["requests"]["finished"])


def _process(command: Sequence[str], folder: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak RSS in bytes of a command.

    Linux starts the peak at the memory of the parent, so this process must stay smaller than its children.
    """
    with (folder / "stderr.txt").open("w+", encoding="utf-8") as said:
        begin_s = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begin_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            words = said.read().strip()
            raise RunFailedError(f"exit code {process.returncode} of {' '.join(command)}\n{words}")
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT_BYTES


def _result(run: Run, starts: Sequence[Sample], fulls: Sequence[Sample]) -> Result:
    def figure(value: Callable[[Sample, Sample], float]) -> Figure:
        return Figure.of([value(full, start) for full, start in zip(fulls, starts, strict=True)])

    def growth_per(count: Callable[[Sample], int]) -> Figure:
        return figure(lambda a, b: (a.peak_rss_bytes - b.peak_rss_bytes) / (count(a) - count(b)))

    figures = {
        "wall_s": figure(lambda full, _: full.wall_s),
        "start_s": figure(lambda _, start: start.wall_s),
        "cpu_s": figure(lambda full, _: full.cpu_s),
        "iterations_per_s": figure(lambda full, _: full.iterations / full.wall_s),
        "requests_per_s": figure(lambda full, _: full.requests / full.wall_s),
        "peak_rss_bytes": figure(lambda full, _: full.peak_rss_bytes),
        "growth_bytes_per_iteration": growth_per(lambda sample: sample.iterations),
        "growth_bytes_per_request": growth_per(lambda sample: sample.requests),
    }
    return Result(run, fulls[0].requests, fulls[0].iterations, figures)


def _cells(result: Result) -> dict[str, str]:
    """One line of the table, by column; a figure is its median, with min and max where they matter most."""
    figures, goal_s = result.figures, result.run.goal_s
    return {
        "run": result.run.name,
        "requests": str(result.requests),
        "iterations": str(result.iterations),
        "wall s (min-max)": figures["wall_s"].text(),
        "goal s": f"< {goal_s:g}" if goal_s is not None else "",
        "start s": f"{figures['start_s'].median:.2f}",
        "CPU s": f"{figures['cpu_s'].median:.2f}",
        "iter/s": f"{figures['iterations_per_s'].median:.0f}",
        "req/s": f"{figures['requests_per_s'].median:.0f}",
        "peak MiB (min-max)": figures["peak_rss_bytes"].text(MIB, 0),
        "KiB/iter": f"{figures['growth_bytes_per_iteration'].median / KIB:.2f}",
        "KiB/req": f"{figures['growth_bytes_per_request'].median / KIB:.2f}",
    }


def _print_table(results: Sequence[Result]) -> None:
    """A table on a terminal, aligned text elsewhere."""
    rows = [_cells(result) for result in results]
    columns = list(rows[0])
    console = Console()
    if console.is_terminal:
        table = Table(caption=f"medians on {os.cpu_count()} cores; ratios count, not seconds")
        for column in columns:
            table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        console.print(table)
        return
    lines = [columns, *(list(row.values()) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        name, *numbers = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join((name.strip().ljust(widths[0]), *numbers)))


def _json(results: Sequence[Result], repeat: int) -> str:
    """All figures with median, min and max; the unit ends the name."""
    runs = {
        one.run.name: {"goal_s": one.run.goal_s, "requests": one.requests, "iterations": one.iterations}
        | {name: asdict(figure) for name, figure in one.figures.items()}
        for one in results
    }
    return json.dumps({"cores": os.cpu_count(), "repeat": repeat, "runs": runs}, indent=2) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False)
    add, names = parser.add_argument, list(SCENARIOS)
    add("--scenario", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--repeat", type=_repeat, default=3, metavar="N", help="how often each runs (default: 3)")
    add("--json", type=_output_file, metavar="FILE", help="write all figures here, too")
    add("--profile", choices=names, metavar="NAME", help="profile a scenario's first run, measure nothing")
    return parser


def _repeat(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def _output_file(text: str) -> Path:
    file = Path(text)
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{file}: cannot be written")
    return file


if __name__ == "__main__":
    raise SystemExit(main())
